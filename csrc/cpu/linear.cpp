// y = x · weightᵀ for few rows: the weights stream from memory once, four outputs at a time; rows of
// x, four at a time, stay in cache.
#include "cpu/level.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace sensorium::SENSORIUM_ISA {
namespace {

// Sums of R rows of x with C rows of weight over whole vectors; returns how far they went.
template <int R, int C, class T>
int dots(const T* const* x, const T* const* w, int size, float (*to)[C]) {
  Vec sums[R][C] = {};
  int i = 0;
  for (; i + kWidth <= size; i += kWidth) {
    Vec weight[C];
    for (int c = 0; c < C; ++c) weight[c] = load(w[c] + i);
    for (int r = 0; r < R; ++r) {
      const Vec v = load(x[r] + i);
      for (int c = 0; c < C; ++c) sums[r][c] += v * weight[c];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) to[r][c] = sum(sums[r][c]);
  }
  return i;
}

#if defined(__AVX512BF16__)
// The processor's own product of bf16 pairs, 32 at a time.
template <int R, int C>
int dots(const BFloat16* const* x, const BFloat16* const* w, int size, float (*to)[C]) {
  __m512 sums[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) sums[r][c] = _mm512_setzero_ps();
  }
  int i = 0;
  for (; i + 32 <= size; i += 32) {
    __m512bh weight[C];
    for (int c = 0; c < C; ++c) weight[c] = bits_of<__m512bh>(_mm512_loadu_si512(w[c] + i));
    for (int r = 0; r < R; ++r) {
      const __m512bh v = bits_of<__m512bh>(_mm512_loadu_si512(x[r] + i));
      for (int c = 0; c < C; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], v, weight[c]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) to[r][c] = sum(bits_of<Vec>(sums[r][c]));
  }
  return i;
}
#endif

template <int R, int C, class T>
void tile(const Linear& l, int row, int64_t output) {
  const T* x[R];
  const T* w[C];
  for (int r = 0; r < R; ++r) x[r] = static_cast<const T*>(l.x) + (row + r) * l.x_row_stride;
  for (int c = 0; c < C; ++c) {
    w[c] = static_cast<const T*>(l.weight) + (output + c) * l.weight_row_stride;
  }
  float sums[R][C];
  const int done = dots<R, C>(x, w, l.in_size, sums);
  const T* bias = static_cast<const T*>(l.bias);
  for (int r = 0; r < R; ++r) {
    T* out = static_cast<T*>(l.out) + static_cast<int64_t>(row + r) * l.out_size;
    for (int c = 0; c < C; ++c) {
      float total = sums[r][c];
      for (int i = done; i < l.in_size; ++i) total += to_float(x[r][i]) * to_float(w[c][i]);
      put(out + output + c, bias == nullptr ? total : total + to_float(bias[output + c]));
    }
  }
}

template <int C, class T>
void rows_of(const Linear& l, int64_t output) {
  int row = 0;
  for (; row + 2 <= l.rows; row += 2) tile<2, C, T>(l, row, output);
  for (; row < l.rows; ++row) tile<1, C, T>(l, row, output);
}

template <class T>
void outputs(const Linear& l, int64_t first, int64_t last) {
  int64_t output = first;
  for (; output + 4 <= last; output += 4) rows_of<4, T>(l, output);
  for (; output < last; ++output) rows_of<1, T>(l, output);
}

}  // namespace

void linear(const Linear& l, int64_t first, int64_t last) {
  l.dtype == DType::kFloat32 ? outputs<float>(l, first, last) : outputs<BFloat16>(l, first, last);
}

}  // namespace sensorium::SENSORIUM_ISA
