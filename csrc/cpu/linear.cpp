// y = x · weightᵀ: the weights stream from memory once for each two rows of x, which stay in cache.
// A tile is two rows by four outputs. Where the processor multiplies pairs of bfloat16 itself, they
// go another way, which is as good for many rows (linear_pairs.h).
#include "cpu/level.h"

#if defined(__AVX512BF16__)
#include "cpu/linear_pairs.h"
#endif

namespace sensorium::SENSORIUM_ISA {
namespace {

// Sums of R rows of x with C rows of weight over whole vectors; returns how far they went. The
// weights `ahead` of these are asked for.
template <int R, int C, class T>
int dots(const T* const* x, const T* const* w, int size, int64_t ahead, float (*to)[C]) {
  Vec sums[R][C] = {};
  int i = 0;
  for (; i + kWidth <= size; i += kWidth) {
    Vec weight[C];
    for (int c = 0; c < C; ++c) {
      weight[c] = load(w[c] + i);
      __builtin_prefetch(w[c] + i + ahead, 0, 2);
    }
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

template <int R, int C, class T>
void tile(const Linear& l, int row, int64_t output) {
  const T* x[R];
  const T* w[C];
  for (int r = 0; r < R; ++r) x[r] = static_cast<const T*>(l.x) + (row + r) * l.x_row_stride;
  for (int c = 0; c < C; ++c) {
    w[c] = static_cast<const T*>(l.weight) + (output + c) * l.weight_row_stride;
  }
  float sums[R][C];
  const int done = dots<R, C>(x, w, l.in_size, C * l.weight_row_stride, sums);
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
void outputs(const Linear& l, int64_t output, int64_t last) {
  for (; output + 4 <= last; output += 4) rows_of<4, T>(l, output);
  for (; output < last; ++output) rows_of<1, T>(l, output);
}

}  // namespace

int64_t linear_scratch(const Linear& l) {
#if defined(__AVX512BF16__)
  if (l.dtype == DType::kBFloat16) return pairs::scratch_floats(l);
#endif
  return 0;
}

void linear(const Linear& l, int64_t first, int64_t last, float* scratch) {
#if defined(__AVX512BF16__)
  if (l.dtype == DType::kBFloat16) first = pairs::outputs(l, first, last, scratch);
#endif
  l.dtype == DType::kFloat32 ? outputs<float>(l, first, last) : outputs<BFloat16>(l, first, last);
}

}  // namespace sensorium::SENSORIUM_ISA
