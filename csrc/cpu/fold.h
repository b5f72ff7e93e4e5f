// The sums of up to kWidth vectors as one vector, lane i the sum over the lanes of a[i].
//
// A tree with one level per bit of the lane's number. Each node takes two vectors and leaves half as many partial sums
// of each: one blend takes the lanes that stay where they are, one shuffle the lanes that change places, one addition.
// Lanes from kCount on hold copies of others' sums.

#if W2V_WIDTH == 16
W2V_INLINE Vf fold_1(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 17, 2, 19, 4, 21, 6, 23, 8, 25, 10, 27, 12, 29, 14, 31) +
         __builtin_shufflevector(a, b, 1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
}
W2V_INLINE Vf fold_2(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 18, 19, 4, 5, 22, 23, 8, 9, 26, 27, 12, 13, 30, 31) +
         __builtin_shufflevector(a, b, 2, 3, 16, 17, 6, 7, 20, 21, 10, 11, 24, 25, 14, 15, 28, 29);
}
W2V_INLINE Vf fold_4(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 20, 21, 22, 23, 8, 9, 10, 11, 28, 29, 30, 31) +
         __builtin_shufflevector(a, b, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
}
W2V_INLINE Vf fold_8(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31) +
         __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23);
}
#elif W2V_WIDTH == 8
W2V_INLINE Vf fold_1(Vf a, Vf b) {  // no one instruction makes {a1, b0, a3, b2}; two that take from both do
  return __builtin_shufflevector(__builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
                                     __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15),
                                 a, 0, 2, 1, 3, 4, 6, 5, 7);
}
W2V_INLINE Vf fold_2(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 10, 11, 4, 5, 14, 15) +
         __builtin_shufflevector(a, b, 2, 3, 8, 9, 6, 7, 12, 13);
}
W2V_INLINE Vf fold_4(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 12, 13, 14, 15) +
         __builtin_shufflevector(a, b, 4, 5, 6, 7, 8, 9, 10, 11);
}
#else
W2V_INLINE Vf fold_1(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
}
W2V_INLINE Vf fold_2(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 6, 7) + __builtin_shufflevector(a, b, 2, 3, 4, 5);
}
#endif

template <int kCount>
W2V_INLINE Vf fold(const Vf* a) {
  constexpr int kHalf = (kCount + 1) / 2, kQuarter = (kHalf + 1) / 2;
  Vf b[kHalf], c[kQuarter];
#pragma GCC unroll 16
  for (int i = 0; i < kHalf; ++i) b[i] = fold_1(a[2 * i], a[2 * i + (2 * i + 1 < kCount)]);
#pragma GCC unroll 16
  for (int i = 0; i < kQuarter; ++i) c[i] = fold_2(b[2 * i], b[2 * i + (2 * i + 1 < kHalf)]);
#if W2V_WIDTH == 4
  return c[0];
#else
  constexpr int kEighth = (kQuarter + 1) / 2;
  Vf d[kEighth];
#pragma GCC unroll 16
  for (int i = 0; i < kEighth; ++i) d[i] = fold_4(c[2 * i], c[2 * i + (2 * i + 1 < kQuarter)]);
#if W2V_WIDTH == 8
  return d[0];
#else
  return fold_8(d[0], d[kEighth - 1]);
#endif
#endif
}
