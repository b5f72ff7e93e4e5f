// Reading and writing rows: see rows.h. Nearly every number of a vector file is a few digits around a point, so that is
// the fast path: eight digits at a time in a 64-bit register, then one division by a power of ten. With a mantissa up
// to 2^53 and a power up to 10^22 both operands are exact, so the double is correctly rounded (Clinger 1990); cut to
// float32 it is so too unless it lies exactly half-way between two floats, where the decimal may not. Those, exponents
// and longer numbers go to std::from_chars. Measured: 20 ns
// for a number of 11 characters (Xeon, 2.6 GHz, one thread), where reading the bytes takes 5 ns.
#include "rows.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <type_traits>

namespace w2v::text {

namespace {

constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr uint64_t kIntPowers[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};

bool is_gap(char c) { return c == ' ' || c == '\t'; }

// Adds the digits at p to *mantissa, which may overflow: the caller counts them. Returns how many there are.
int64_t take_digits(const char* p, const char* end, uint64_t* mantissa) {
  const char* const begin = p;
  if constexpr (std::endian::native == std::endian::little) {
    while (end - p >= 8) {
      uint64_t chunk;
      std::memcpy(&chunk, p, 8);
      chunk ^= 0x3030303030303030;  // digits become 0..9
      const uint64_t other = ((chunk + 0x7676767676767676) | chunk) & 0x8080808080808080;
      const int n = std::countr_zero(other) >> 3;  // digits before the first other character
      if (n == 0) return p - begin;
      chunk <<= 64 - 8 * n;  // leading zeros in front
      chunk = chunk * 10 + (chunk >> 8);
      constexpr uint64_t kMask = 0x000000FF000000FF;
      chunk = ((chunk & kMask) * 0x000F424000000064 + ((chunk >> 16) & kMask) * 0x0000271000000001) >> 32;
      *mantissa = *mantissa * kIntPowers[n] + chunk;
      p += n;
      if (n < 8) return p - begin;
    }
  }
  for (; p < end && *p >= '0' && *p <= '9'; ++p) *mantissa = *mantissa * 10 + static_cast<uint64_t>(*p - '0');
  return p - begin;
}

// A decimal out of the range of a double: is it tiny (0) rather than huge (inf)?
bool is_tiny(std::string_view field) {
  int64_t exponent = 0;
  const size_t e = field.find_first_of("eE");
  if (e != field.npos) {
    const char* from = field.data() + e + 1;
    if (*from == '+') ++from;
    if (std::from_chars(from, field.data() + field.size(), exponent).ec != std::errc()) return *from == '-';
  }
  const std::string_view digits = field.substr(0, e);
  const size_t point = std::min(digits.find('.'), digits.size());
  const size_t first = digits.find_first_of("123456789");
  if (first == digits.npos) return true;
  return exponent + static_cast<int64_t>(point) - static_cast<int64_t>(first) < 0;
}

template <class T>
bool parse_slowly(std::string_view field, T* value) {
  const bool plus = field.starts_with('+');
  if (plus) field.remove_prefix(1);
  if (field.empty() || (plus && field[0] == '-')) return false;
  const char* const end = field.data() + field.size();
  const auto [stop, error] = std::from_chars(field.data(), end, *value);
  if (stop != end || error == std::errc::invalid_argument) return false;
  if (error == std::errc::result_out_of_range) {
    *value = is_tiny(field) ? T(0) : std::numeric_limits<T>::infinity();
    if (field[0] == '-') *value = -*value;
  }
  return true;
}

// Reads the number that begins at p; end is the line's. Returns the end of its field, or nullptr if it is none.
template <class T>
const char* parse_number(const char* p, const char* end, T* value) {
  const char* const begin = p;
  const bool negative = *p == '-';
  p += negative;
  uint64_t mantissa = 0;
  int64_t digits = take_digits(p, end, &mantissa), decimals = 0;
  p += digits;
  if (p < end && *p == '.') {
    decimals = take_digits(++p, end, &mantissa);
    p += decimals;
    digits += decimals;
  }
  if ((p == end || is_gap(*p)) && digits > 0 && digits <= 19 && mantissa <= (uint64_t{1} << 53)) {
    const double number = static_cast<double>(mantissa) / kPowers[decimals];
    bool exact = true;
    if constexpr (std::is_same_v<T, float>) {
      const bool half_way = (std::bit_cast<uint64_t>(number) & 0x1FFFFFFF) == 0x10000000;
      exact = !half_way && (mantissa == 0 || number >= std::numeric_limits<float>::min());
    }
    if (exact) {
      *value = static_cast<T>(negative ? -number : number);
      return p;
    }
  }
  while (p < end && !is_gap(*p)) ++p;
  return parse_slowly({begin, static_cast<size_t>(p - begin)}, value) ? p : nullptr;
}

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> fields;
  for (size_t i = 0; i < line.size();) {
    size_t j = i;
    while (j < line.size() && !is_gap(line[j])) ++j;
    if (j > i) fields.push_back(line.substr(i, j - i));
    i = j + 1;
  }
  return fields;
}

bool is_number(std::string_view field) {
  double value;
  return parse_number(field.data(), field.data() + field.size(), &value) != nullptr;
}

std::string_view strip_end(std::string_view line) {
  while (!line.empty() && (is_gap(line.back()) || line.back() == '\r')) line.remove_suffix(1);
  return line;
}

// D numbers from p to the end of the line, into `values`. False where there are more, fewer, or none.
template <class T>
bool parse_numbers(const char* p, const char* end, int64_t dim, T* values) {
  for (int64_t i = 0; i < dim; ++i) {
    while (p < end && is_gap(*p)) ++p;
    if (p == end || (p = parse_number(p, end, values + i)) == nullptr) return false;
  }
  return p == end;
}

// Reads a line that is not a word of one field and D numbers: a word with spaces in it, or a fault.
template <class T>
std::string_view parse_odd_line(std::string_view line, const RowOptions& options, T* values, Rows<T>* rows) {
  const std::vector<std::string_view> fields = split(line);
  const size_t dim = static_cast<size_t>(options.dim), wanted = dim + options.has_word;
  rows->detail = static_cast<int64_t>(fields.size());
  rows->fault = RowFault::kFields;
  if (fields.size() < wanted || (!options.has_word && fields.size() > wanted)) return {};
  const size_t first = fields.size() - dim;
  for (size_t i = first; i < fields.size(); ++i) {
    if (is_number(fields[i])) continue;
    if (fields.size() > wanted) return {};
    rows->fault = RowFault::kNumber;
    rows->field = fields[i].substr(0, 40);
    return {};
  }
  if (fields.size() > wanted && is_number(fields[first - 1])) return {};
  rows->fault = RowFault::kNone;
  parse_numbers(fields[first].data(), line.data() + line.size(), options.dim, values);
  return {line.data(), static_cast<size_t>(fields[first - 1].data() + fields[first - 1].size() - line.data())};
}

template <class T>
int64_t first_not_finite(const T* values, int64_t dim) {  // from 1; 0 where all are finite
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Bits kInfinity = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
  Bits found = 0;  // without a branch, so that it is done in vectors
  for (int64_t i = 0; i < dim; ++i) found |= (std::bit_cast<Bits>(values[i]) & kInfinity) == kInfinity;
  if (found == 0) return 0;
  return std::find_if(values, values + dim, [](T value) { return !std::isfinite(value); }) - values + 1;
}

}  // namespace

template <class T>
Rows<T> parse_text_rows(std::string_view block, const RowOptions& options) {
  Rows<T> rows;
  const size_t dim = static_cast<size_t>(options.dim);
  std::vector<T> row(dim);
  while (rows.used < block.size() && static_cast<int64_t>(rows.count) < options.limit) {
    const size_t stop = std::min(block.find('\n', rows.used), block.size());
    const std::string_view line = strip_end(block.substr(rows.used, stop - rows.used));
    const char* const end = line.data() + line.size();
    const char* p = line.data();
    if (options.has_word)
      while (p < end && !is_gap(*p)) ++p;
    std::string_view word(line.data(), static_cast<size_t>(p - line.data()));
    if (options.has_word && word.empty() && !line.empty()) {
      rows.fault = RowFault::kNoWord;
    } else if (!parse_numbers(p, end, options.dim, row.data())) {
      word = parse_odd_line(line, options, row.data(), &rows);
    }
    if (rows.fault == RowFault::kNone && (rows.detail = first_not_finite(row.data(), options.dim)) != 0)
      rows.fault = RowFault::kNotFinite;
    if (options.has_word && (rows.fault == RowFault::kNone || rows.fault == RowFault::kNotFinite))
      rows.words.push_back(word);  // of a row that is not finite too, for the message
    if (rows.fault != RowFault::kNone) break;
    rows.values.insert(rows.values.end(), row.begin(), row.end());
    ++rows.count;
    rows.used = std::min(stop + 1, block.size());
  }
  return rows;
}

template Rows<float> parse_text_rows(std::string_view block, const RowOptions& options);
template Rows<double> parse_text_rows(std::string_view block, const RowOptions& options);

Rows<float> parse_binary_rows(std::string_view block, const RowOptions& options) {
  Rows<float> rows;
  const size_t dim = static_cast<size_t>(options.dim), bytes = 4 * dim;
  while (static_cast<int64_t>(rows.count) < options.limit) {
    size_t begin = rows.used;
    while (begin < block.size() && block[begin] == '\n') ++begin;
    const size_t space = block.find(' ', begin);
    if (space == block.npos || block.size() - space - 1 < bytes) {
      rows.fault = RowFault::kPartial;
      break;
    }
    if (space == begin) {
      rows.fault = RowFault::kNoWord;
      break;
    }
    rows.words.push_back(block.substr(begin, space - begin));
    const size_t at = rows.values.size();
    rows.values.resize(at + dim);
    float* const values = rows.values.data() + at;
    std::memcpy(values, block.data() + space + 1, bytes);
    if constexpr (std::endian::native == std::endian::big) {
      for (size_t i = 0; i < dim; ++i)
        values[i] = std::bit_cast<float>(__builtin_bswap32(std::bit_cast<uint32_t>(values[i])));
    }
    if ((rows.detail = first_not_finite(values, options.dim)) != 0) {
      rows.values.resize(at);
      rows.fault = RowFault::kNotFinite;
      break;
    }
    ++rows.count;
    rows.used = space + 1 + bytes;
  }
  return rows;
}

int64_t count_numbers(std::string_view line) {
  if (line.ends_with('\n')) line.remove_suffix(1);
  const std::vector<std::string_view> fields = split(strip_end(line));
  size_t first = fields.size();
  while (first > 1 && is_number(fields[first - 1])) --first;
  return static_cast<int64_t>(fields.size() - first);
}

std::string format_text_rows(std::span<const std::string_view> words, const float* values, int64_t rows, int64_t dim,
                             char separator) {
  constexpr size_t kLongest = 16;  // -1.17549435e-38, and the separator
  std::string text;
  size_t used = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const std::string_view word = words.empty() ? std::string_view() : words[static_cast<size_t>(r)];
    const size_t needed = used + word.size() + kLongest * static_cast<size_t>(dim) + 2;
    if (text.size() < needed) text.resize(std::max(needed, 2 * text.size()));
    char* to = text.data() + used;
    to = std::copy(word.begin(), word.end(), to);
    for (int64_t i = 0; i < dim; ++i) {
      if (i > 0 || !words.empty()) *to++ = separator;
      to = std::to_chars(to, to + kLongest, values[r * dim + i]).ptr;
    }
    *to++ = '\n';
    used = static_cast<size_t>(to - text.data());
  }
  text.resize(used);
  return text;
}

}  // namespace w2v::text
