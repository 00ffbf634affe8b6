// A product of small float matrices, kept in registers: 6 rows × 2 vectors at a time, which fills
// the 16 registers of AVX2 (12 sums, 2 of b, 1 of a).
#pragma once

#include "cpu/vec.h"

namespace sensorium::SENSORIUM_ISA {

template <int R>
inline void add_tile(const float* a, int a_stride, const float* b, int b_stride, float* c,
                     int c_stride, int inner) {
  Vec sums[R][2] = {};
  for (int k = 0; k < inner; ++k) {
    const Vec first = load(b + k * b_stride), second = load(b + k * b_stride + kWidth);
    for (int r = 0; r < R; ++r) {
      const float x = a[r * a_stride + k];
      sums[r][0] += x * first;
      sums[r][1] += x * second;
    }
  }
  for (int r = 0; r < R; ++r) {
    float* to = c + r * c_stride;
    store(to, load(to) + sums[r][0]);
    store(to + kWidth, load(to + kWidth) + sums[r][1]);
  }
}

// c (rows, columns) += a (rows, inner) · b (inner, columns); columns is a multiple of 2 · kWidth.
inline void add_product(const float* a, int a_stride, const float* b, int b_stride, float* c,
                        int c_stride, int rows, int columns, int inner) {
  for (int column = 0; column < columns; column += 2 * kWidth) {
    int r = 0;
    for (; r + 6 <= rows; r += 6) {
      add_tile<6>(a + r * a_stride, a_stride, b + column, b_stride, c + r * c_stride + column,
                  c_stride, inner);
    }
    for (; r + 2 <= rows; r += 2) {
      add_tile<2>(a + r * a_stride, a_stride, b + column, b_stride, c + r * c_stride + column,
                  c_stride, inner);
    }
    for (; r < rows; ++r) {
      add_tile<1>(a + r * a_stride, a_stride, b + column, b_stride, c + r * c_stride + column,
                  c_stride, inner);
    }
  }
}

}  // namespace sensorium::SENSORIUM_ISA
