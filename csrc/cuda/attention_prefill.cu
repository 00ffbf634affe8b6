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

// Tiles: of 16 rows, a warp; two where sequences are long and registers allow it.
template <int D, int Tiles>
struct Shape {
  static constexpr int kTiles = Tiles;
  static constexpr int kRows = kWarps * 16 * kTiles;
  static constexpr int kKeys = D <= 128 ? 64 : 32;  // of a step
  static constexpr int kShare = kKeys / kWarps;     // that a warp copies; of one page
  static constexpr int kStride = D + kPad;
  static constexpr int kBytes = (kRows + 2 * kKeys) * kStride * 2;
};

// Pieces of 16 bytes of `Rows` rows of queries; rows from `count` on become zeros.
template <class T, int D, int Rows>
__device__ inline void copy_queries(const T* from, int64_t row_stride, int count, uint32_t to) {
  constexpr int kChunks = D / 8;
#pragma unroll
  for (int i = 0; i < Rows * kChunks / kThreads; ++i) {
    const int chunk = i * kThreads + threadIdx.x, row = chunk / kChunks;
    const int column = chunk % kChunks * 8;
    const bool wanted = row < count;
    const T* at = from + (wanted ? row : 0) * row_stride + column;
    copy_async(to + (row * (D + kPad) + column) * 2, at, wanted);
  }
}

// One warp's share of a step's keys (or values): rows that lie one behind another, in one page or
// side by side, from `from` on. Rows from `count` on become zeros.
template <class T, int D, int Share>
__device__ inline void copy_share(const T* from, int64_t row_stride, int count, uint32_t to) {
  constexpr int kChunks = D / 8;
#pragma unroll
  for (int i = 0; i < Share * kChunks / 32; ++i) {
    const int chunk = i * 32 + threadIdx.x % 32, row = chunk / kChunks;
    const int column = chunk % kChunks * 8;
    copy_async(to + (row * (D + kPad) + column) * 2, from + row * row_stride + column,
               row < count);
  }
}

template <class T, int D, int Tiles>
__global__ void __launch_bounds__(kThreads) prefill_kernel(const Attention a, bool skip_single) {
  using S = Shape<D, Tiles>;
  static_assert(S::kRows <= kThreads);
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
  const Runs runs = runs_of(a, row, index, count, length);

  const uint32_t queries = shared_address(memory);
  const uint32_t keys = queries + S::kRows * S::kStride * 2;
  const uint32_t values = keys + kKeys * S::kStride * 2;
  // Each warp copies its share of a step's keys and values. In pages: page and slot of its first
  // token; side by side: its row. The page of the next step is looked up a step ahead.
  const bool paged = a.page_table != nullptr;
  const T* k = static_cast<const T*>(a.k) + kv_head * a.k_head_stride;
  const T* v = static_cast<const T*>(a.v) + kv_head * a.v_head_stride;
  const int32_t* pages = paged ? a.page_table + b * a.page_table_stride : nullptr;
  const int share = warp * S::kShare, last_token = runs.any.last - 1;
  const auto page_at = [&](int from) {
    const int token = min(from + share, last_token);  // beyond the last there is no page
    return paged ? pages[token / kPage] : token / kPage;
  };
  if (!paged) {
    k += start * a.k_row_stride;
    v += start * a.v_row_stride;
  }
  const int64_t k_page = paged ? a.k_page_stride : kPage * a.k_row_stride;
  const int64_t v_page = paged ? a.v_page_stride : kPage * a.v_row_stride;
  const int slot = share % kPage;
  const uint32_t to_share = share * S::kStride * 2;
  const auto copy_keys = [&](int from, int page) {
    copy_share<T, D, S::kShare>(k + page * k_page + slot * a.k_row_stride, a.k_row_stride,
                     runs.any.last - from - share, keys + to_share);
  };
  const auto copy_values = [&](int from, int page) {
    copy_share<T, D, S::kShare>(v + page * v_page + slot * a.v_row_stride, a.v_row_stride,
                     runs.any.last - from - share, values + to_share);
  };
  const int begin = runs.any.first / kKeys * kKeys;
  const T* q = static_cast<const T*>(a.q) + row * a.q_row_stride + head * a.q_head_stride;
  copy_queries<T, D, S::kRows>(q, a.q_row_stride, count, queries);
  int page = page_at(begin);
  copy_keys(begin, page);
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
    copy_values(from, page);
    commit_copies();
    page = page_at(from + kKeys);

    float s[kTiles][kKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t query[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int at = (query_row + tile * 16) * S::kStride + step * 16 + query_column;
        load_matrices(query[tile], queries + at * 2);
      }
#pragma unroll
      for (int pair = 0; pair < kKeys / 16; ++pair) {
        uint32_t k[4];
        const int at = (pair * 16 + key_row) * S::kStride + step * 16 + key_column;
        load_matrices(k, keys + at * 2);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          multiply(s[tile][2 * pair], query[tile], k[0], k[1], T{});
          multiply(s[tile][2 * pair + 1], query[tile], k[2], k[3], T{});
        }
      }
    }
    await_copies<0>();
    __syncthreads();  // the values are there, and nobody reads these keys any more
    if (from + kKeys < runs.any.last) copy_keys(from + kKeys, page);
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
        const float factor = power_of_2(most[tile][half] * to_log2 - offset);
        most[tile][half] = now;
        float total = 0.0f;
#pragma unroll
        for (int column = 0; column < kKeys / 8; ++column) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            s[tile][column][i] = power_of_2(s[tile][column][i] * to_log2 - offset);
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

template <class T, int D, int Tiles>
cudaError_t launch(const Attention& a, bool skip_single, cudaStream_t stream) {
  using S = Shape<D, Tiles>;
  const auto kernel = prefill_kernel<T, D, Tiles>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes);
  if (error != cudaSuccess) return error;
  const dim3 grid((a.max_query_len + S::kRows - 1) / S::kRows, a.num_heads, a.batch);
  kernel<<<grid, kThreads, S::kBytes, stream>>>(a, skip_single);
  return cudaGetLastError();
}

}  // namespace

cudaError_t prefill(const Attention& a, bool skip_single, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  dispatch(a, [&]<class T, int D>() {
    if constexpr (D <= 128) {
      if (a.max_query_len > kWarps * 16) {
        error = launch<T, D, 2>(a, skip_single, stream);
        return;
      }
    }
    error = launch<T, D, 1>(a, skip_single, stream);
  });
  return error;
}

}  // namespace sensorium::cuda
