// Prefill and extend on Hopper, for head sizes 64, 128 and 256: the same sums as
// attention_prefill.cu, by the warpgroup's products (after FlashAttention-3, Shah et al. 2024):
//
//   grid    (block of 128 queries, query head, sequence), blocks that see the most keys first
//   block   2 warpgroups of 64 queries each
//   step j  the scores of step j + 1 and the sums of step j are multiplied while the threads turn
//           the scores of j + 1 to weights; keys of j + 2 and values of j + 1 arrive meanwhile
//
// Every warp copies one page (or 16 rows that lie side by side, or half of them).
#include <algorithm>

#include "cuda/attention.cuh"
#include "cuda/kernels.h"
#include "cuda/wgmma.cuh"

namespace sensorium::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 128;
constexpr int kGroupRows = 64;  // of a warpgroup

template <int D>
struct Shape {
  static constexpr int kKeys = D <= 128 ? 128 : 64;   // of a step
  static constexpr int kShare = kKeys / 8;            // that a warp copies
  static constexpr int kBlock = kKeys * 128;          // bytes of 64 columns of keys, or values
  static constexpr int kTile = kKeys * D * 2;         // bytes of a step's keys, or values
  static constexpr int kQueries = kRows * D * 2;
  static constexpr int kBytes = kQueries + 4 * kTile + 1024;  // to begin at a multiple of 1024
};

// Copies `Rows` rows from `from` on to rows of a tile whose blocks of 64 columns are `block` bytes
// long; `thread` of `Threads`. Rows from `count` on become zeros.
template <class T, int D, int Rows, int Threads>
__device__ inline void copy_rows(const T* from, int64_t row_stride, int count, uint32_t to,
                                 int first_row, int block, int thread) {
  constexpr int kChunks = D / 8;
#pragma unroll
  for (int i = 0; i < Rows * kChunks / Threads; ++i) {
    const int chunk = i * Threads + thread, row = chunk / kChunks, column = chunk % kChunks;
    const int at = first_row + row;
    const uint32_t target = to + column / 8 * block + at * 128 + (column % 8 ^ at % 8) * 16;
    const bool wanted = row < count;
    copy_async(target, from + (wanted ? row : 0) * row_stride + column * 8, wanted);
  }
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads, 1) prefill_kernel(const Attention a, bool skip_single) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Shape<D>;
  constexpr int kKeys = S::kKeys;
  extern __shared__ unsigned char memory[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warpgroup = warp / 4;
  const int b = blockIdx.z, head = blockIdx.y;
  const int kv_head = head / (a.num_heads / a.num_kv_heads);
  const int start = a.query_start[b], num_queries = a.query_start[b + 1] - start;
  const int block_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  if (block_row >= num_queries || (skip_single && num_queries == 1)) return;
  const int length = a.seq_lens != nullptr ? a.seq_lens[b] : num_queries;
  const int count = min(kRows, num_queries - block_row);
  const int row = start + block_row, index = length - num_queries + block_row;
  const Runs runs = runs_of(a, row, index, count, length);

  const uint32_t queries = (shared_address(memory) + 1023) / 1024 * 1024;
  const uint32_t keys = queries + S::kQueries, values = keys + 2 * S::kTile;  // two stages each
  const bool paged = a.page_table != nullptr;
  const T* k = static_cast<const T*>(a.k) + kv_head * a.k_head_stride;
  const T* v = static_cast<const T*>(a.v) + kv_head * a.v_head_stride;
  const int32_t* pages = paged ? a.page_table + b * a.page_table_stride : nullptr;
  if (!paged) {
    k += start * a.k_row_stride;
    v += start * a.v_row_stride;
  }
  const int64_t k_page = paged ? a.k_page_stride : kPage * a.k_row_stride;
  const int64_t v_page = paged ? a.v_page_stride : kPage * a.v_row_stride;
  const int begin = runs.any.first / kKeys * kKeys;
  const int num_steps = (runs.any.last - begin + kKeys - 1) / kKeys;
  const int share = warp * S::kShare, slot = share % kPage;
  const auto page_of = [&](int step) {
    const int token = min(begin + step * kKeys + share, runs.any.last - 1);
    return paged ? pages[token / kPage] : token / kPage;
  };
  const auto copy_keys = [&](int step, int page) {
    copy_rows<T, D, S::kShare, 32>(
        k + page * k_page + slot * a.k_row_stride, a.k_row_stride,
        runs.any.last - (begin + step * kKeys + share), keys + step % 2 * S::kTile, share,
        S::kBlock, lane);
  };
  const auto copy_values = [&](int step, int page) {
    copy_rows<T, D, S::kShare, 32>(
        v + page * v_page + slot * a.v_row_stride, a.v_row_stride,
        runs.any.last - (begin + step * kKeys + share), values + step % 2 * S::kTile, share,
        S::kBlock, lane);
  };

  // First the queries and keys of step 0; then, a group a step, keys of j + 1 and values of j.
  const T* q = static_cast<const T*>(a.q) + row * a.q_row_stride + head * a.q_head_stride;
  copy_rows<T, D, kRows, kThreads>(q, a.q_row_stride, count, queries, 0, kRows * 128, threadIdx.x);
  int page = page_of(0), next_page = page_of(1);
  copy_keys(0, page);
  commit_copies();
  if (num_steps > 1) copy_keys(1, next_page);
  copy_values(0, page);
  commit_copies();
  page = next_page;
  next_page = page_of(2);

  float s[kKeys / 2], out[D / 2];
  uint32_t weights[kKeys / 16][4];
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < D / 2; ++i) out[i] = 0.0f;
  const int r0 = warpgroup * kGroupRows + warp % 4 * 16 + lane / 4, c0 = lane % 4 * 2;
  const uint32_t own_queries = queries + warpgroup * kGroupRows * 128;
  const bool is_capped = a.soft_cap > 0.0f;
  const float to_log2 = is_capped ? 1.0f : a.scale * kLog2e;

  const auto multiply_scores = [&](int step) {
    const uint32_t tile = keys + step % 2 * S::kTile;
#pragma unroll
    for (int depth = 0; depth < D / 16; ++depth) {
      const uint32_t piece = depth % 4 * 32;
      multiply_wide(s, along_depth(own_queries + depth / 4 * (kRows * 128) + piece),
                    along_depth(tile + depth / 4 * S::kBlock + piece), depth > 0, T{});
    }
  };
  const auto multiply_values = [&](int step) {
    const uint32_t tile = values + step % 2 * S::kTile;
#pragma unroll
    for (int depth = 0; depth < kKeys / 16; ++depth) {
      multiply_wide(out, weights[depth], along_columns(tile + depth * 2048, S::kBlock), T{});
    }
  };
  // Scores to weights, and by what the sums so far shrink.
  float factor[2];
  const auto soften = [&](int step) {
    const int from = begin + step * kKeys;
    if (is_capped) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) s[i] = capped(s[i], a.scale, a.soft_cap);
    }
    if (from < runs.all.first || from + kKeys > runs.all.last) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = r0 + half * 8;  // rows beyond the last see nothing
        const Run run = i < count ? run_of(a, row + i, index + i, length) : Run{0, 0};
#pragma unroll
        for (int column = 0; column < kKeys / 8; ++column) {
          const int token = from + column * 8 + c0;
          float* x = s + column * 4 + half * 2;
          if (token < run.first || token >= run.last) x[0] = -INFINITY;
          if (token + 1 < run.first || token + 1 >= run.last) x[1] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = -INFINITY;
#pragma unroll
      for (int column = 0; column < kKeys / 8; ++column) {
        now = fmaxf(now, fmaxf(s[column * 4 + half * 2], s[column * 4 + half * 2 + 1]));
      }
      now = fmaxf(most[half], quad_max(now));
      // A row that has seen nothing yet has no maximum: any will do, all its weights are 0.
      const float offset = now == -INFINITY ? 0.0f : now * to_log2;
      factor[half] = power_of_2(most[half] * to_log2 - offset);
      most[half] = now;
      float total = 0.0f;
#pragma unroll
      for (int column = 0; column < kKeys / 8; ++column) {
#pragma unroll
        for (int i = column * 4 + half * 2; i < column * 4 + half * 2 + 2; ++i) {
          s[i] = power_of_2(s[i] * to_log2 - offset);
          total += s[i];
        }
      }
      sum[half] = sum[half] * factor[half] + total;
    }
  };
  const auto pack_weights = [&] {
#pragma unroll
    for (int depth = 0; depth < kKeys / 16; ++depth) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[depth][i] = pack(s[depth * 8 + 2 * i], s[depth * 8 + 2 * i + 1], T{});
      }
    }
  };

  await_copies<1>();
  publish_shared();
  __syncthreads();
  pin(s);
  begin_products();
  multiply_scores(0);
  commit_products();
  await_products<0>();
  pin(s);
  soften(0);
  pack_weights();

  // The last step stands behind the loop: in the loop nothing depends on a condition between the
  // beginning of products and their end, or the compiler would make them wait for each other.
  for (int step = 0; step + 1 < num_steps; ++step) {
    await_copies<0>();
    publish_shared();
    // Keys of step + 1 and values of step are there; nobody reads keys of step or values before.
    __syncthreads();
    if (step + 2 < num_steps) copy_keys(step + 2, next_page);
    copy_values(step + 1, page);
    commit_copies();
    page = next_page;
    next_page = page_of(step + 3);

    pin(s);
    pin(out);
    begin_products();
    multiply_scores(step + 1);
    commit_products();
    multiply_values(step);
    commit_products();
    await_products<1>();
    pin(s);
    soften(step + 1);
    await_products<0>();
    pin(out);
    pin(s);
#pragma unroll
    for (int i = 0; i < D / 2; ++i) out[i] *= factor[i % 4 / 2];
    pack_weights();
  }
  await_copies<0>();
  publish_shared();
  __syncthreads();
  pin(out);
  begin_products();
  multiply_values(num_steps - 1);
  commit_products();
  await_products<0>();
  pin(out);

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = quad_sum(sum[half]);
    const int i = r0 + half * 8;
    if (i >= count) continue;
    T* to = static_cast<T*>(a.out) + (static_cast<int64_t>(row + i) * a.num_heads + head) * D;
#pragma unroll
    for (int column = 0; column < D / 8; ++column) {
      const float* x = out + column * 4 + half * 2;
      *reinterpret_cast<uint32_t*>(to + column * 8 + c0) = pack(x[0] / total, x[1] / total, T{});
    }
  }
#endif
}

template <class T, int D>
cudaError_t launch(const Attention& a, bool skip_single, cudaStream_t stream) {
  constexpr int kBytes = Shape<D>::kBytes;
  const cudaError_t error = cudaFuncSetAttribute(
      prefill_kernel<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  const dim3 grid((a.max_query_len + kRows - 1) / kRows, a.num_heads, a.batch);
  prefill_kernel<T, D><<<grid, kThreads, kBytes, stream>>>(a, skip_single);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_size(const Attention& a, bool skip_single, cudaStream_t stream) {
  switch (a.head_size) {
    case 64: return launch<T, 64>(a, skip_single, stream);
    case 128: return launch<T, 128>(a, skip_single, stream);
    default: return launch<T, 256>(a, skip_single, stream);
  }
}

}  // namespace

bool has_prefill_sm90(const Attention& a) {
  return a.head_size == 64 || a.head_size == 128 || a.head_size == 256;
}

cudaError_t prefill_sm90(const Attention& a, bool skip_single, cudaStream_t stream) {
  return a.dtype == DType::kBFloat16 ? launch_size<BFloat16>(a, skip_single, stream)
                                     : launch_size<Half>(a, skip_single, stream);
}

}  // namespace sensorium::cuda
