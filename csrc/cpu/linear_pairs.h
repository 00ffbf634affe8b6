// y = x · weightᵀ in bfloat16 by the processor's own products of pairs (AVX512-BF16).
//
// The lanes of a vector are rows of x; a tile is 16 outputs for 16 rows (or 8, in half vectors): a
// pair of each of 16 rows of weight goes to all lanes in turn. So weights are read where they lie,
// once, and while a tile computes, it asks memory for the next one's: up to 16 rows take as long as
// one. x is packed first: for each pair of inputs, that pair of 16 rows.
#pragma once

#include <immintrin.h>

#include "cpu/level.h"

namespace sensorium::SENSORIUM_ISA::pairs {
namespace {

constexpr int kRows = 16, kOutputs = 16;
constexpr int kSlabBytes = 1 << 19;  // of packed x, which each 16 outputs read again

// Pairs of inputs, the last ones zeros up to whole vectors.
int64_t packed_pairs(int in_size) { return (int64_t{in_size} + 31) / 32 * 16; }

// Rows that are packed at once.
int slab_rows(const Linear& l) {
  const int64_t most = kSlabBytes / (4 * packed_pairs(l.in_size)) / kRows * kRows;
  const int64_t whole = (int64_t{l.rows} + kRows - 1) / kRows * kRows;
  return static_cast<int>(most < kRows ? kRows : most < whole ? most : whole);
}

int64_t scratch_floats(const Linear& l) { return slab_rows(l) * packed_pairs(l.in_size); }

// A matrix of 16×16 pairs (or floats) turned: four steps, each doubling what lies together.
void transpose(__m512i* v) {
  __m512i half[16];
  for (int i = 0; i < 16; i += 2) {
    half[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    half[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      v[i + 2 * j] = _mm512_unpacklo_epi64(half[i + j], half[i + j + 2]);
      v[i + 2 * j + 1] = _mm512_unpackhi_epi64(half[i + j], half[i + j + 2]);
    }
  }
  // Quarter q of v[4 i + c] is column 4 q + c of rows 4 i to 4 i + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512i even[2] = {_mm512_shuffle_i32x4(v[c], v[c + 4], 0x88),
                             _mm512_shuffle_i32x4(v[c + 8], v[c + 12], 0x88)};
    const __m512i odd[2] = {_mm512_shuffle_i32x4(v[c], v[c + 4], 0xdd),
                            _mm512_shuffle_i32x4(v[c + 8], v[c + 12], 0xdd)};
    half[c] = _mm512_shuffle_i32x4(even[0], even[1], 0x88);
    half[c + 4] = _mm512_shuffle_i32x4(odd[0], odd[1], 0x88);
    half[c + 8] = _mm512_shuffle_i32x4(even[0], even[1], 0xdd);
    half[c + 12] = _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd);
  }
  for (int i = 0; i < 16; ++i) v[i] = half[i];
}

// Up to 16 rows of x from `row` on, as (pairs, 16).
void pack(const Linear& l, int row, __m512i* to) {
  const int count = l.rows - row < kRows ? l.rows - row : kRows;
  const auto* x = static_cast<const BFloat16*>(l.x) + row * l.x_row_stride;
  for (int i = 0; i < l.in_size; i += 32) {
    const int left = l.in_size - i;
    const __mmask32 mask = left < 32 ? (__mmask32{1} << left) - 1 : ~__mmask32{0};
    __m512i v[kRows] = {};
    for (int r = 0; r < count; ++r) v[r] = _mm512_maskz_loadu_epi16(mask, x + r * l.x_row_stride + i);
    transpose(v);
    for (int r = 0; r < kRows; ++r) to[i / 2 + r] = v[r];
  }
}

struct Sixteen {
  using Sums = __m512;
  using Pairs = __m512bh;
  static Pairs all(int32_t pair) { return bits_of<Pairs>(_mm512_set1_epi32(pair)); }
  static Sums add(Sums s, Pairs x, Pairs w) { return _mm512_dpbf16_ps(s, x, w); }
};

struct Eight {
  using Sums = __m256;
  using Pairs = __m256bh;
  static Pairs all(int32_t pair) { return bits_of<Pairs>(_mm256_set1_epi32(pair)); }
  static Sums add(Sums s, Pairs x, Pairs w) { return _mm256_dpbf16_ps(s, x, w); }
};

// The sums of 16 rows of weight with the rows in x. Of what lies behind these weights, a line is
// asked for with each pair, if `ahead`: as much as the tile itself reads.
template <class Rows>
void tile(const __m512i* x, const BFloat16* weight, int64_t stride, int pairs, bool ahead,
          __m512i* to) {
  typename Rows::Sums sums[kOutputs] = {};
  const auto* next = reinterpret_cast<const char*>(weight + kOutputs * stride);
  for (int i = 0; i < pairs; ++i) {
    typename Rows::Pairs rows;
    std::memcpy(&rows, x + i, sizeof rows);
    if (ahead) _mm_prefetch(next + int64_t{64} * i, _MM_HINT_T1);
    // Two places, eight rows from each: more would not fit into the registers.
    const BFloat16* at[2] = {weight + 2 * i, weight + 2 * i + 8 * stride};
#pragma GCC unroll 16
    for (int c = 0; c < kOutputs; ++c) {
      int32_t pair;
      std::memcpy(&pair, at[c / 8] + c % 8 * stride, sizeof pair);
      sums[c] = Rows::add(sums[c], rows, Rows::all(pair));
    }
  }
  for (int c = 0; c < kOutputs; ++c) std::memcpy(&to[c], &sums[c], sizeof sums[c]);
}

// 16 outputs of `count` rows, whose packed x lies at `x`.
void block(const Linear& l, int row, int count, int64_t output, const __m512i* x, bool ahead) {
  const auto* weight = static_cast<const BFloat16*>(l.weight) + output * l.weight_row_stride;
  const auto compute = count > 8 ? tile<Sixteen> : tile<Eight>;
  __m512i sums[kOutputs] = {};
  compute(x, weight, l.weight_row_stride, l.in_size / 2, ahead, sums);
  transpose(sums);
  Vec bias{};
  if (l.bias != nullptr) bias = load(static_cast<const BFloat16*>(l.bias) + output);
  auto* out = static_cast<BFloat16*>(l.out) + static_cast<int64_t>(row) * l.out_size + output;
  for (int r = 0; r < count; ++r) {
    store(out + static_cast<int64_t>(r) * l.out_size, bits_of<Vec>(sums[r]) + bias);
  }
}

// Whole blocks of outputs from `first` on; returns the first output that is left.
int64_t outputs(const Linear& l, int64_t first, int64_t last, float* scratch) {
  if (l.in_size % 2 != 0 || last - first < kOutputs) return first;
  const int64_t stop = first + (last - first) / kOutputs * kOutputs;
  const int slab = slab_rows(l);
  const int64_t group = packed_pairs(l.in_size);
  auto* x = reinterpret_cast<__m512i*>(scratch);
  for (int from = 0; from < l.rows; from += slab) {
    const int to = l.rows - from < slab ? l.rows : from + slab;
    for (int row = from; row < to; row += kRows) pack(l, row, x + (row - from) / kRows * group);
    for (int64_t output = first; output < stop; output += kOutputs) {
      for (int row = from; row < to; row += kRows) {
        const int count = to - row < kRows ? to - row : kRows;
        block(l, row, count, output, x + (row - from) / kRows * group, row == from);
      }
    }
  }
  return stop;
}

}  // namespace
}  // namespace sensorium::SENSORIUM_ISA::pairs
