// y = x · weightᵀ: the weights stream from memory once for a slab of x, which stays in cache.
// A tile is some rows by some outputs, whose sums stay in registers; each sum takes its products in
// the same order whatever the tile, so that a row's result doesn't depend on its company. Where the
// processor multiplies pairs of bfloat16 itself, they go another way (linear_pairs.h).
#include "cpu/level.h"

#if defined(__AVX512BF16__)
#include "cpu/linear_pairs.h"
#endif

namespace sensorium::SENSORIUM_ISA {
namespace {

// A tile of many rows: as many sums as the registers hold, 32 with AVX-512, else 16.
constexpr int kTileRows = 6;
#if defined(__AVX512F__)
constexpr int kTileOutputs = 4;
#else
constexpr int kTileOutputs = 2;
#endif
constexpr int64_t kSlabBytes = 1 << 18;  // of widened x, which each tile's outputs read again

// Sums of R rows of x with C rows of weight over whole vectors; returns how far they went. The
// weights `ahead` of these are asked for, unless that is 0.
template <int R, int C, class X, class T>
int dots(const X* const* x, const T* const* w, int size, int64_t ahead, float (*to)[C]) {
  Vec sums[R][C] = {};
  int i = 0;
  for (; i + kWidth <= size; i += kWidth) {
    Vec weight[C];
    for (int c = 0; c < C; ++c) weight[c] = load(w[c] + i);
    if (ahead != 0) {
      for (int c = 0; c < C; ++c) __builtin_prefetch(w[c] + i + ahead, 0, 2);
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

// Some rows of x: those of `l`, or a slab of them as floats.
template <class X>
struct Rows {
  const X* x;
  int64_t stride;
  int first, last;
};

template <int R, int C, class X, class T>
void tile(const Linear& l, const Rows<X>& rows, int row, int64_t output) {
  const X* x[R];
  const T* w[C];
  for (int r = 0; r < R; ++r) x[r] = rows.x + (row - rows.first + r) * rows.stride;
  for (int c = 0; c < C; ++c) {
    w[c] = static_cast<const T*>(l.weight) + (output + c) * l.weight_row_stride;
  }
  float sums[R][C];
  const int64_t ahead = row == rows.first ? C * l.weight_row_stride : 0;
  const int done = dots<R, C>(x, w, l.in_size, ahead, sums);
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

// C outputs of all rows, R rows at a time and the rest in twos.
template <int R, int C, class X, class T>
void rows_of(const Linear& l, const Rows<X>& rows, int64_t output) {
  int row = rows.first;
  for (; row + R <= rows.last; row += R) tile<R, C, X, T>(l, rows, row, output);
  if constexpr (R > 4) {
    for (; row + 4 <= rows.last; row += 4) tile<4, C, X, T>(l, rows, row, output);
  }
  for (; row + 2 <= rows.last; row += 2) tile<2, C, X, T>(l, rows, row, output);
  for (; row < rows.last; ++row) tile<1, C, X, T>(l, rows, row, output);
}

template <int R, int C, class X, class T>
void outputs(const Linear& l, const Rows<X>& rows, int64_t output, int64_t last) {
  for (; output + C <= last; output += C) rows_of<R, C, X, T>(l, rows, output);
  for (; output < last; ++output) rows_of<R, 1, X, T>(l, rows, output);
}

// Few rows wait for the weights, so more outputs at once keep more of these on their way.
bool are_few(const Linear& l) { return l.rows < 4; }

template <class T>
void plain(const Linear& l, int64_t first, int64_t last) {
  const Rows<T> rows{static_cast<const T*>(l.x), l.x_row_stride, 0, l.rows};
  are_few(l) ? outputs<2, 4, T, T>(l, rows, first, last)
             : outputs<kTileRows, kTileOutputs, T, T>(l, rows, first, last);
}

int slab_rows(const Linear& l) {
  const int64_t most = kSlabBytes / (4 * int64_t{l.in_size} + 1) / kTileRows * kTileRows;
  return static_cast<int>(most < kTileRows ? kTileRows : most < l.rows ? most : l.rows);
}

// Many rows of bfloat16: a slab at a time as floats, so that no tile has to widen them again.
void slabs(const Linear& l, int64_t first, int64_t last, float* scratch) {
  const int slab = slab_rows(l);
  for (int from = 0; from < l.rows; from += slab) {
    const int to = l.rows - from < slab ? l.rows : from + slab;
    for (int row = from; row < to; ++row) {
      const auto* x = static_cast<const BFloat16*>(l.x) + row * l.x_row_stride;
      float* wide = scratch + int64_t{row - from} * l.in_size;
      int i = 0;
      for (; i + kWidth <= l.in_size; i += kWidth) store(wide + i, load(x + i));
      for (; i < l.in_size; ++i) wide[i] = to_float(x[i]);
    }
    const Rows<float> rows{scratch, l.in_size, from, to};
    outputs<kTileRows, kTileOutputs, float, BFloat16>(l, rows, first, last);
  }
}

}  // namespace

int64_t linear_scratch(const Linear& l) {
  if (l.dtype == DType::kFloat32) return 0;
#if defined(__AVX512BF16__)
  return pairs::scratch_floats(l);
#else
  return are_few(l) ? 0 : int64_t{slab_rows(l)} * l.in_size;
#endif
}

void linear(const Linear& l, int64_t first, int64_t last, float* scratch) {
  if (l.dtype == DType::kFloat32) return plain<float>(l, first, last);
#if defined(__AVX512BF16__)
  first = pairs::outputs(l, first, last, scratch);
  plain<BFloat16>(l, first, last);
#else
  are_few(l) ? plain<BFloat16>(l, first, last) : slabs(l, first, last, scratch);
#endif
}

}  // namespace sensorium::SENSORIUM_ISA
