// What the memory-bound ops read and write, for the CPU's and CUDA's kernels alike. Strides count
// elements; the last dimension of every tensor is contiguous.
#pragma once

#include <cstdint>

#include "attention.h"

namespace sensorium {

// Rotary embedding of q and k, and the store of k and v into pages, in one pass over the tokens.
//
// The pairs (i, i + rotary_size / 2), i < rotary_size / 2, of each head are turned by the angle
// whose cosine and sine are cos[n][i] and sin[n][i]; elements from rotary_size on stay. Which
// position (or which of several axes' positions) an angle comes from is the tables' matter. The
// turned q is written back in place; the turned k goes only into the cache. Computed in float32,
// rounded once. With cos null nothing is turned and q is not touched.
struct RopeStore {
  void* q;  // (N, num_heads, head_size), or null with num_heads 0
  int64_t q_row_stride, q_head_stride;
  const void* k;  // (N, num_kv_heads, head_size)
  int64_t k_row_stride, k_head_stride;
  const void* v;
  int64_t v_row_stride, v_head_stride;
  const void* cos;  // (N, rotary_size / 2), contiguous, in dtype; or null
  const void* sin;
  void* keys;  // (slots, num_kv_heads, head_size), contiguous: the cache of one layer, pages flat
  void* values;
  const int64_t* slots;  // (N): the slot of each token
  int32_t num_tokens, num_heads, num_kv_heads, head_size, rotary_size;
  DType dtype;
};

// Rotary embedding alone, in place, with tables in float32 whatever x is (towers are so published):
// the pairs as above, computed in float32, rounded once.
struct Rope {
  void* x;  // (N, num_heads, head_size)
  int64_t row_stride, head_stride;
  const float* cos;  // (N, rotary_size / 2), contiguous
  const float* sin;
  int32_t num_tokens, num_heads, rotary_size;
  DType dtype;
};

// Root-mean-square norm of rows, the residual added first where there is one:
//   x' = x + residual, rounded to dtype and written to residual_out (where not null)
//   out = round(x' / rms(x')) · weight, the product rounded again; the mean is in float32
// or, where `wide`, out = (x' / rms(x')) · (offset + weight) in float32, rounded once.
// Row r of x begins at (r / heads) · x_row_stride + (r % heads) · x_head_stride.
// out may be x, residual_out may be residual.
struct RmsNorm {
  const void* x;  // (rows, size)
  int64_t x_row_stride, x_head_stride;
  int32_t heads;  // 1 where there is a residual
  const void* residual;  // (rows, size), contiguous, or null
  void* residual_out;
  const void* weight;  // (size)
  void* out;           // (rows, size), contiguous
  int32_t rows, size;
  float eps, offset;
  bool wide;
  DType dtype;
};

// out = silu(gate) · up, where a row of x is gate (size) followed by up (size): silu in float32,
// rounded to dtype, then multiplied and rounded, as torch does with two operations.
struct SiluMul {
  const void* x;  // (rows, 2 · size)
  int64_t x_row_stride;
  void* out;  // (rows, size), contiguous
  int32_t rows, size;
  DType dtype;
};

}  // namespace sensorium
