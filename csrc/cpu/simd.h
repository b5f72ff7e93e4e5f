// Vectors of W2V_WIDTH floats in the compiler's own vector type, so that one source serves AVX-512 (16), AVX2 (8) and
// SSE/NEON (4). Included once per instruction set, inside namespace w2v::W2V_ISA, with that target's code generation
// switched on; it must not include any header.

constexpr int kWidth = W2V_WIDTH;

#ifdef __SANITIZE_THREAD__  // the races that are meant are listed by function, which must not vanish in another
#define W2V_INLINE inline __attribute__((noinline))
#else
#define W2V_INLINE inline __attribute__((always_inline))
#endif

typedef float Vf __attribute__((vector_size(4 * W2V_WIDTH)));
typedef int32_t Vi __attribute__((vector_size(4 * W2V_WIDTH)));
typedef float VfU __attribute__((vector_size(4 * W2V_WIDTH), aligned(4), may_alias));
typedef double Vd __attribute__((vector_size(4 * W2V_WIDTH)));  // as many bytes, half as many lanes
typedef float Vh __attribute__((vector_size(2 * W2V_WIDTH)));   // half a Vf
typedef int32_t ViU __attribute__((vector_size(4 * W2V_WIDTH), aligned(4), may_alias));
typedef double VdU __attribute__((vector_size(4 * W2V_WIDTH), aligned(8), may_alias));

template <typename T>
struct VecOf;
template <>
struct VecOf<float> {
  using type = Vf;
  using unaligned = VfU;
};
template <>
struct VecOf<double> {
  using type = Vd;
  using unaligned = VdU;
};
template <typename T>
using Vec = typename VecOf<T>::type;
template <typename T>
constexpr int kLanes = sizeof(Vec<T>) / sizeof(T);

template <typename T>
W2V_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VecOf<T>::unaligned*>(p);
}
template <typename T>
W2V_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VecOf<T>::unaligned*>(p) = v;
}
W2V_INLINE Vi load_integers(const int32_t* p) { return *reinterpret_cast<const ViU*>(p); }
W2V_INLINE void store(int32_t* p, Vi v) { *reinterpret_cast<ViU*>(p) = v; }
template <typename T>
W2V_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

template <typename T>
W2V_INLINE T horizontal_sum(Vec<T> v) {
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

// The lower and upper half of a Vf as doubles.
#if W2V_WIDTH == 16
#define W2V_LOW_HALF 0, 1, 2, 3, 4, 5, 6, 7
#define W2V_HIGH_HALF 8, 9, 10, 11, 12, 13, 14, 15
#elif W2V_WIDTH == 8
#define W2V_LOW_HALF 0, 1, 2, 3
#define W2V_HIGH_HALF 4, 5, 6, 7
#else
#define W2V_LOW_HALF 0, 1
#define W2V_HIGH_HALF 2, 3
#endif
W2V_INLINE Vd widen_low(Vf v) {
  const Vh half = __builtin_shufflevector(v, v, W2V_LOW_HALF);
  return __builtin_convertvector(half, Vd);
}
W2V_INLINE Vd widen_high(Vf v) {
  const Vh half = __builtin_shufflevector(v, v, W2V_HIGH_HALF);
  return __builtin_convertvector(half, Vd);
}

// For each of the V vectors that a function works on side by side.
#define W2V_EACH(v) _Pragma("GCC unroll 4") for (int v = 0; v < V; ++v)

// e^t for t <= 0, in place, to 2 ulp: t = n ln 2 + r, a polynomial for e^r, and n into the exponent. Below -87 it gives
// e^-87.
template <int V>
W2V_INLINE void exp_nonpositive(Vf (&t)[V]) {
  Vf n[V], r[V], p[V];
  W2V_EACH(v) t[v] = t[v] > -87.0f ? t[v] : broadcast(-87.0f);
  W2V_EACH(v) n[v] = t[v] * 1.44269504f + 12582912.0f;  // 1.5 * 2^23 pushes the fraction out: round to nearest
  W2V_EACH(v) r[v] = t[v] - (n[v] - 12582912.0f) * 0.693359375f;
  W2V_EACH(v) r[v] = r[v] - (n[v] - 12582912.0f) * -2.12194440e-4f;
  W2V_EACH(v) p[v] = r[v] * 1.9875691500e-4f + 1.3981999507e-3f;
  W2V_EACH(v) p[v] = p[v] * r[v] + 8.3334519073e-3f;
  W2V_EACH(v) p[v] = p[v] * r[v] + 4.1665795894e-2f;
  W2V_EACH(v) p[v] = p[v] * r[v] + 1.6666665459e-1f;
  W2V_EACH(v) p[v] = p[v] * r[v] + 5.0000001201e-1f;
  W2V_EACH(v) p[v] = p[v] * (r[v] * r[v]) + r[v] + 1.0f;
  W2V_EACH(v) t[v] = reinterpret_cast<Vf>(reinterpret_cast<Vi>(p[v]) + (reinterpret_cast<Vi>(n[v]) << 23));
}
