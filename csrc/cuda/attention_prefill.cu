// Prefill and extend: many queries a sequence, keys in pages or side by side. Bound by arithmetic
// (FlashAttention-2, Dao 2023):
//
//   grid    (block of queries, query head, sequence), blocks that see the most keys first
//   block   4 warps; each owns 16 or 32 rows of queries, and all of their sums in registers
//   step    64 keys (32): scores = Q Kᵀ; the next values arrive meanwhile; running softmax; then
//           sums += weights · V, while the next keys arrive
//
// With 32 rows a warp, what it reads of K and V from shared memory serves two products. Blocks of
// keys that no row sees are skipped, and only those that some row doesn't see whole are masked.
#include <algorithm>

#include "cuda/attention.cuh"
#include "cuda/kernels.h"

namespace sensorium::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;

template <int D>
struct Shape {
  static constexpr int kTiles = D <= 128 ? 2 : 1;  // of 16 rows, a warp
  static constexpr int kRows = kWarps * 16 * kTiles;
  static constexpr int kKeys = D <= 128 ? 64 : 32;  // of a step
  static constexpr int kStride = D + kPad;
  static constexpr int kBytes = (kRows + 2 * kKeys) * kStride * 2;
};

// What the rows of a block see: any of them, and all of them.
struct Runs {
  Run any, all;
};

// Rows of 16-byte pieces from global to shared memory; the row's address comes from `row_at`.
template <int D, int Rows, class At>
__device__ inline void copy_rows(uint32_t to, const At& row_at) {
  constexpr int kChunks = D / 8;
  static_assert(Rows * kChunks % kThreads == 0);
#pragma unroll
  for (int i = 0; i < Rows * kChunks / kThreads; ++i) {
    const int chunk = i * kThreads + threadIdx.x, row = chunk / kChunks;
    const int column = chunk % kChunks * 8;
    const auto [from, wanted] = row_at(row);
    copy_async(to + (row * Shape<D>::kStride + column) * 2, from + column, wanted);
  }
}

template <class T>
struct Row {
  const T* from;
  bool wanted;
};

// Where token i of sequence b lies; beyond `last`, the first token's place, not wanted.
template <class T>
__device__ inline Row<T> row_of(const Attention& a, const void* base, int64_t page_stride,
                                int64_t row_stride, int64_t head_offset, int b, int i, int last) {
  const bool wanted = i < last;
  const int token = wanted ? i : 0;
  int64_t at = head_offset;
  if (a.page_table != nullptr) {
    const int64_t page = a.page_table[b * a.page_table_stride + token / kPage];
    at += page * page_stride + token % kPage * row_stride;
  } else {
    at += (static_cast<int64_t>(a.query_start[b]) + token) * row_stride;
  }
  return {static_cast<const T*>(base) + at, wanted};
}

// Every thread looks at one row (or none); the block agrees.
template <int Rows>
__device__ inline Runs runs_of(const Attention& a, int row, int index, int count, int length) {
  __shared__ int shared[4];
  if (threadIdx.x == 0) {
    shared[0] = length;
    shared[1] = 0;
    shared[2] = 0;
    shared[3] = length;
  }
  __syncthreads();
  if (a.reach == nullptr) {  // both ends ascend with the row
    const Run first = run_of(a, row, index, length);
    const Run last = run_of(a, row + count - 1, index + count - 1, length);
    return {{first.first, last.last}, {last.first, first.last}};
  }
  static_assert(Rows <= kThreads);
  if (threadIdx.x < count) {
    const Run run = run_of(a, row + threadIdx.x, index + threadIdx.x, length);
    atomicMin(&shared[0], run.first);
    atomicMax(&shared[1], run.last);
    atomicMax(&shared[2], run.first);
    atomicMin(&shared[3], run.last);
  }
  __syncthreads();
  return {{shared[0], shared[1]}, {shared[2], shared[3]}};
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads) prefill_kernel(const Attention a, bool skip_single) {
  using S = Shape<D>;
  constexpr int kTiles = S::kTiles, kKeys = S::kKeys;
  extern __shared__ __align__(16) unsigned char memory[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int b = blockIdx.z, head = blockIdx.y;
  const int kv_head = head / (a.num_heads / a.num_kv_heads);
  const int start = a.query_start[b], num_queries = a.query_start[b + 1] - start;
  const int block_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * S::kRows;
  if (block_row >= num_queries || (skip_single && num_queries == 1)) return;
  const int length = a.seq_lens != nullptr ? a.seq_lens[b] : num_queries;
  const int count = min(S::kRows, num_queries - block_row);
  const int row = start + block_row, index = length - num_queries + block_row;
  const Runs runs = runs_of<S::kRows>(a, row, index, count, length);

  const uint32_t queries = shared_address(memory);
  const uint32_t keys = queries + S::kRows * S::kStride * 2;
  const uint32_t values = keys + kKeys * S::kStride * 2;
  const int64_t k_head = kv_head * a.k_head_stride, v_head = kv_head * a.v_head_stride;
  const auto copy_keys = [&](int from) {
    copy_rows<D, kKeys>(keys, [&](int i) {
      return row_of<T>(a, a.k, a.k_page_stride, a.k_row_stride, k_head, b, from + i, runs.any.last);
    });
  };
  const auto copy_values = [&](int from) {
    copy_rows<D, kKeys>(values, [&](int i) {
      return row_of<T>(a, a.v, a.v_page_stride, a.v_row_stride, v_head, b, from + i, runs.any.last);
    });
  };
  const int begin = runs.any.first / kKeys * kKeys;
  copy_rows<D, S::kRows>(queries, [&](int i) {
    const T* from = static_cast<const T*>(a.q) + head * a.q_head_stride;
    const bool wanted = i < count;
    return Row<T>{from + (row + (wanted ? i : 0)) * a.q_row_stride, wanted};
  });
  copy_keys(begin);
  commit_copies();

  const int r0 = lane / 4, c0 = lane % 4 * 2;
  const int warp_row = warp * 16 * kTiles;
  float out[kTiles][D / 8][4] = {};
  float most[kTiles][2], sum[kTiles][2];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    most[tile][0] = most[tile][1] = -INFINITY;
    sum[tile][0] = sum[tile][1] = 0.0f;
  }
  // Which row and column of its 8 × 8 matrices a lane points at (see primitives.cuh).
  const int query_row = warp_row + lane / 8 % 2 * 8 + lane % 8, query_column = lane / 16 * 8;
  const int key_row = lane / 16 * 8 + lane % 8, key_column = lane / 8 % 2 * 8;
  const int value_row = lane / 8 % 2 * 8 + lane % 8, value_column = lane / 16 * 8;
  // Scores stay raw; they are scaled, to units of log₂, on the way into exp2.
  const bool is_capped = a.soft_cap > 0.0f;
  const float to_log2 = is_capped ? 1.0f : a.scale * kLog2e;

  for (int from = begin; from < runs.any.last; from += kKeys) {
    await_copies<0>();
    __syncthreads();  // these keys are there, and nobody reads the values before any more
    copy_values(from);
    commit_copies();

    float s[kTiles][kKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t q[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int at = (query_row + tile * 16) * S::kStride + step * 16 + query_column;
        load_matrices(q[tile], queries + at * 2);
      }
#pragma unroll
      for (int pair = 0; pair < kKeys / 16; ++pair) {
        uint32_t k[4];
        const int at = (pair * 16 + key_row) * S::kStride + step * 16 + key_column;
        load_matrices(k, keys + at * 2);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          multiply(s[tile][2 * pair], q[tile], k[0], k[1], T{});
          multiply(s[tile][2 * pair + 1], q[tile], k[2], k[3], T{});
        }
      }
    }
    await_copies<0>();
    __syncthreads();  // the values are there, and nobody reads these keys any more
    if (from + kKeys < runs.any.last) copy_keys(from + kKeys);
    commit_copies();

    if (is_capped) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int column = 0; column < kKeys / 8; ++column) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            s[tile][column][i] = capped(s[tile][column][i], a.scale, a.soft_cap);
          }
        }
      }
    }
    if (from < runs.all.first || from + kKeys > runs.all.last) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int i = warp_row + tile * 16 + half * 8 + r0;  // rows beyond the last see nothing
          const Run run = i < count ? run_of(a, row + i, index + i, length) : Run{0, 0};
#pragma unroll
          for (int column = 0; column < kKeys / 8; ++column) {
            const int token = from + column * 8 + c0;
            if (token < run.first || token >= run.last) s[tile][column][2 * half] = -INFINITY;
            if (token + 1 < run.first || token + 1 >= run.last) {
              s[tile][column][2 * half + 1] = -INFINITY;
            }
          }
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float now = -INFINITY;
#pragma unroll
        for (int column = 0; column < kKeys / 8; ++column) {
          now = fmaxf(now, fmaxf(s[tile][column][2 * half], s[tile][column][2 * half + 1]));
        }
        now = fmaxf(most[tile][half], quad_max(now));
        // A row that has seen nothing yet has no maximum: any will do, all its weights are 0.
        const float offset = now == -INFINITY ? 0.0f : now * to_log2;
        const float factor = exp2f(most[tile][half] * to_log2 - offset);
        most[tile][half] = now;
        float total = 0.0f;
#pragma unroll
        for (int column = 0; column < kKeys / 8; ++column) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            s[tile][column][i] = exp2f(s[tile][column][i] * to_log2 - offset);
            total += s[tile][column][i];
          }
        }
        sum[tile][half] = sum[tile][half] * factor + total;
#pragma unroll
        for (int column = 0; column < D / 8; ++column) {
          out[tile][column][2 * half] *= factor;
          out[tile][column][2 * half + 1] *= factor;
        }
      }
    }
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t weights[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&pair)[4] = s[tile][2 * step + i / 2];
          weights[tile][i] = pack(pair[i % 2 * 2], pair[i % 2 * 2 + 1], T{});
        }
      }
#pragma unroll
      for (int column = 0; column < D / 16; ++column) {
        uint32_t v[4];
        const int at = (step * 16 + value_row) * S::kStride + column * 16 + value_column;
        load_transposed(v, values + at * 2);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          multiply(out[tile][2 * column], weights[tile], v[0], v[1], T{});
          multiply(out[tile][2 * column + 1], weights[tile], v[2], v[3], T{});
        }
      }
    }
  }

#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_sum(sum[tile][half]);
      const int i = warp_row + tile * 16 + half * 8 + r0;
      if (i >= count) continue;
      T* to = static_cast<T*>(a.out) + (static_cast<int64_t>(row + i) * a.num_heads + head) * D;
#pragma unroll
      for (int column = 0; column < D / 8; ++column) {
        const uint32_t both = pack(out[tile][column][2 * half] / total,
                                   out[tile][column][2 * half + 1] / total, T{});
        *reinterpret_cast<uint32_t*>(to + column * 8 + c0) = both;
      }
    }
  }
}

}  // namespace

cudaError_t prefill(const Attention& a, bool skip_single, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  dispatch(a, [&]<class T, int D>() {
    using S = Shape<D>;
    error = cudaFuncSetAttribute(prefill_kernel<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 S::kBytes);
    if (error != cudaSuccess) return;
    const dim3 grid((a.max_query_len + S::kRows - 1) / S::kRows, a.num_heads, a.batch);
    prefill_kernel<T, D><<<grid, kThreads, S::kBytes, stream>>>(a, skip_single);
    error = cudaGetLastError();
  });
  return error;
}

}  // namespace sensorium::cuda
