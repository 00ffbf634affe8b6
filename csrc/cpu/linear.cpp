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

#if defined(__AVX512BF16__)
// The sums of 16 vectors as one vector, in order: each step adds halves of two, so that a sum costs
// three instructions, not a chain of them.
__m512 sums_of(__m512* v) {
  for (int i = 0; i < 8; ++i) {
    const __m512 a = v[2 * i], b = v[2 * i + 1];
    v[i] = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(v[2 * i]), b = _mm512_castps_pd(v[2 * i + 1]);
    v[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  for (int half = 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      const __m512 a = v[2 * i], b = v[2 * i + 1];
      v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    }
  }
  return v[0];
}

// R rows of x with 16 / R rows of weight: 16 sums of the processor's own products of bf16 pairs.
template <int R>
void pairs_tile(const Linear& l, int row, int64_t output) {
  constexpr int C = 16 / R;
  const auto* x = static_cast<const BFloat16*>(l.x) + row * l.x_row_stride;
  const auto* w = static_cast<const BFloat16*>(l.weight) + output * l.weight_row_stride;
  __m512 sums[16];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const auto add = [&](int i, __mmask32 mask) {
    __m512bh own[R];
    for (int r = 0; r < R; ++r) {
      own[r] = bits_of<__m512bh>(_mm512_maskz_loadu_epi16(mask, x + r * l.x_row_stride + i));
    }
    for (int c = 0; c < C; ++c) {
      const BFloat16* at = w + c * l.weight_row_stride + i;
      const auto weight = bits_of<__m512bh>(_mm512_maskz_loadu_epi16(mask, at));
      for (int r = 0; r < R; ++r) {
        sums[r * C + c] = _mm512_dpbf16_ps(sums[r * C + c], own[r], weight);
      }
    }
  };
  int i = 0;
  for (; i + 32 <= l.in_size; i += 32) add(i, ~__mmask32{0});
  if (i < l.in_size) add(i, (__mmask32{1} << (l.in_size - i)) - 1);

  Vec total = bits_of<Vec>(sums_of(sums));
  BFloat16 lanes[16];
  if (l.bias != nullptr) {
    const auto* bias = static_cast<const BFloat16*>(l.bias) + output;
    for (int r = 0; r < R; ++r) std::memcpy(lanes + r * C, bias, sizeof(BFloat16) * C);
    total += load(lanes);
  }
  store(lanes, total);
  auto* out = static_cast<BFloat16*>(l.out) + static_cast<int64_t>(row) * l.out_size + output;
  for (int r = 0; r < R; ++r) {
    std::memcpy(out + static_cast<int64_t>(r) * l.out_size, lanes + r * C, sizeof(BFloat16) * C);
  }
}

template <int R>
void pairs_rows(const Linear& l, int row, int64_t output) {
  for (int c = 0; c < 16; c += 16 / R) pairs_tile<R>(l, row, output + c);
}

// 16 outputs of all rows. Four rows of weight stay in the nearest cache while rows of x pass by.
void pairs_outputs(const Linear& l, int64_t output) {
  const int fours = l.rows / 4 * 4;
  for (int c = 0; c < 16; c += 4) {
    for (int row = 0; row < fours; row += 4) pairs_tile<4>(l, row, output + c);
  }
  if (l.rows % 4 >= 2) pairs_rows<2>(l, fours, output);
  if (l.rows % 2 == 1) pairs_rows<1>(l, l.rows - 1, output);
}
#endif

template <class T>
void outputs(const Linear& l, int64_t first, int64_t last) {
  int64_t output = first;
#if defined(__AVX512BF16__)
  if constexpr (sizeof(T) == 2) {
    for (; output + 16 <= last; output += 16) pairs_outputs(l, output);
  }
#endif
  for (; output + 4 <= last; output += 4) rows_of<4, T>(l, output);
  for (; output < last; ++output) rows_of<1, T>(l, output);
}

}  // namespace

void linear(const Linear& l, int64_t first, int64_t last) {
  l.dtype == DType::kFloat32 ? outputs<float>(l, first, last) : outputs<BFloat16>(l, first, last);
}

}  // namespace sensorium::SENSORIUM_ISA
