// Decode: one query a sequence against all its keys. Bound by memory, so the design is about loads:
//
//   grid    (split of the keys, key head × tile of 16 query heads, sequence)
//   tile    the query heads that share a key head are the 16 rows of one product (fewer: padded)
//   warp    each of 4 walks its own pages, w, w + 4, …, through its own ring of copies in shared
//           memory; a page of 16 keys is one step of the tensor core; warps wait for each other
//           only at the end, when they merge
//
// The splits share out the keys that a sequence really has, so a captured graph stays right for
// other lengths. Their partial results are merged by a second kernel (Dao et al. 2023,
// "Flash-Decoding"). Scores are in units of log₂.
#include <algorithm>

#include "cuda/attention.cuh"
#include "cuda/kernels.h"

namespace sensorium::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kRows = 16;
constexpr int kMergeThreads = 512;
constexpr int kMaxSplits = 128;

template <int D>
struct Shape {
  static constexpr int kStages = D <= 128 ? 3 : 2;
  static constexpr int kStride = D + kPad;                  // halves of a row in shared memory
  static constexpr int kTile = kPage * kStride;             // of one page's keys, or values
  static constexpr int kWarpHalves = kStages * 2 * kTile;
  static constexpr int kRingBytes = kWarps * kWarpHalves * 2;
  static constexpr int kMergeBytes = kWarps * kRows * (D + 2) * 4;
  static constexpr int kBytes = kRingBytes > kMergeBytes ? kRingBytes : kMergeBytes;
};

// Where a split of a sequence's head leaves its result, and its log₂ of the sum of weights.
struct Partials {
  float* out;      // (splits, batch · num_heads, D)
  float* log_sum;  // (splits, batch · num_heads)
  int64_t rows;    // batch · num_heads

  __device__ int64_t at(int split, int64_t row) const { return split * rows + row; }
};

// One warp's pages: copies them into its ring, a page ahead for each stage.
template <class T, int D>
__device__ inline void copy_page(const Attention& a, const int32_t* pages, int page, Run run,
                                 int kv_head, uint32_t keys, int lane) {
  constexpr int kChunks = D / 8;  // of 16 bytes, in a row
  const int64_t id = pages[page];
  const T* k = static_cast<const T*>(a.k) + id * a.k_page_stride + kv_head * a.k_head_stride;
  const T* v = static_cast<const T*>(a.v) + id * a.v_page_stride + kv_head * a.v_head_stride;
  const uint32_t values = keys + Shape<D>::kTile * 2;
#pragma unroll
  for (int i = 0; i < D / 16; ++i) {
    const int chunk = i * 32 + lane, row = chunk / kChunks, column = chunk % kChunks * 8;
    // Behind the end of a sequence lies anything, NaN too: zeros instead.
    const bool wanted = page * kPage + row >= run.first && page * kPage + row < run.last;
    const uint32_t at = (row * Shape<D>::kStride + column) * 2;
    copy_async(keys + at, k + row * a.k_row_stride + column, wanted);
    copy_async(values + at, v + row * a.v_row_stride + column, wanted);
  }
}

template <class T, int D>
__global__ void __launch_bounds__(kWarps * 32) decode_kernel(const Attention a, Partials partials) {
  using S = Shape<D>;
  extern __shared__ __align__(16) unsigned char memory[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int b = blockIdx.z, split = blockIdx.x, num_splits = gridDim.x;
  const int group = a.num_heads / a.num_kv_heads, tiles = (group + kRows - 1) / kRows;
  const int kv_head = blockIdx.y / tiles, in_group = blockIdx.y % tiles * kRows;
  const int heads = min(kRows, group - in_group), first_head = kv_head * group + in_group;
  const int row = a.query_start[b];
  if (a.query_start[b + 1] - row != 1) return;

  const int length = a.seq_lens[b];
  const Run run = run_of(a, row, length - 1, length);
  const int first_page = run.first / kPage, num_pages = (run.last + kPage - 1) / kPage - first_page;
  const int share = (num_pages + num_splits - 1) / num_splits;
  const int begin = first_page + min(num_pages, split * share);
  const int end = first_page + min(num_pages, (split + 1) * share);
  const int64_t out_row = static_cast<int64_t>(row) * a.num_heads + first_head;
  const int64_t part_row = static_cast<int64_t>(b) * a.num_heads + first_head;
  if (begin == end) {  // nothing for this split; with one split there is always something
    if (num_splits > 1 && threadIdx.x < heads) {
      partials.log_sum[partials.at(split, part_row + threadIdx.x)] = -INFINITY;
    }
    return;
  }

  // Queries straight into the operand's place; rows beyond the heads are zeros.
  const int r0 = lane / 4, c0 = lane % 4 * 2;
  uint32_t q[D / 16][4];
  const T* query = static_cast<const T*>(a.q) + row * a.q_row_stride;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int head = r0 + i % 2 * 8, column = step * 16 + c0 + i / 2 * 8;
      const T* at = query + (first_head + head) * a.q_head_stride + column;
      q[step][i] = head < heads ? *reinterpret_cast<const uint32_t*>(at) : 0u;
    }
  }

  const int32_t* pages = a.page_table + b * a.page_table_stride;
  const uint32_t ring = shared_address(memory) + warp * S::kWarpHalves * 2;
  int next = begin + warp;  // the page that is copied next
#pragma unroll
  for (int stage = 0; stage < S::kStages - 1; ++stage, next += kWarps) {
    if (next < end) {
      copy_page<T, D>(a, pages, next, run, kv_head, ring + stage * 4 * S::kTile, lane);
    }
    commit_copies();
  }

  float out[D / 8][4] = {};
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  // Which row and column of its 8 × 8 matrices a lane points at (see primitives.cuh).
  const int key_row = lane / 16 * 8 + lane % 8, key_column = lane / 8 % 2 * 8;
  const int value_row = lane / 8 % 2 * 8 + lane % 8, value_column = lane / 16 * 8;
  int stage = 0;
  for (int page = begin + warp; page < end; page += kWarps) {
    // The stage that was computed last is free: copy into it before waiting for this one.
    const int free = stage == 0 ? S::kStages - 1 : stage - 1;
    if (next < end) {
      copy_page<T, D>(a, pages, next, run, kv_head, ring + free * 4 * S::kTile, lane);
    }
    commit_copies();
    next += kWarps;
    await_copies<S::kStages - 1>();
    __syncwarp();
    const uint32_t keys = ring + stage * 4 * S::kTile, values = keys + 2 * S::kTile;

    float s[2][4] = {};
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t k[4];
      load_matrices(k, keys + (key_row * S::kStride + step * 16 + key_column) * 2);
      multiply(s[0], q[step], k[0], k[1], T{});
      multiply(s[1], q[step], k[2], k[3], T{});
    }
    float here[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = page * kPage + tile * 8 + c0 + i % 2;
        float x = a.soft_cap > 0.0f ? capped(s[tile][i], a.scale, a.soft_cap)
                                    : s[tile][i] * (a.scale * kLog2e);
        x = token >= run.first && token < run.last ? x : -INFINITY;
        s[tile][i] = x;
        here[i / 2] = fmaxf(here[i / 2], x);
      }
    }
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float now = fmaxf(most[i], quad_max(here[i]));  // a page holds at least one key
      factor[i] = power_of_2(most[i] - now);
      most[i] = now;
      sum[i] *= factor[i];
    }
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[tile][i] = power_of_2(s[tile][i] - most[i / 2]);
        sum[i / 2] += s[tile][i];
      }
    }
#pragma unroll
    for (int column = 0; column < D / 8; ++column) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[column][i] *= factor[i / 2];
    }
    const uint32_t weights[4] = {pack(s[0][0], s[0][1], T{}), pack(s[0][2], s[0][3], T{}),
                                 pack(s[1][0], s[1][1], T{}), pack(s[1][2], s[1][3], T{})};
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t v[4];
      load_transposed(v, values + (value_row * S::kStride + step * 16 + value_column) * 2);
      multiply(out[2 * step], weights, v[0], v[1], T{});
      multiply(out[2 * step + 1], weights, v[2], v[3], T{});
    }
    __syncwarp();  // before another copy goes into this stage
    stage = stage == S::kStages - 1 ? 0 : stage + 1;
  }

  // Merge the warps: each leaves its sums, maxima and weights in shared memory.
  await_copies<0>();
  __syncthreads();
  float* sums = reinterpret_cast<float*>(memory);
  float* stats = sums + kWarps * kRows * D;  // (warp, row, {most, sum})
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = warp * kRows + r0 + half * 8;
#pragma unroll
    for (int column = 0; column < D / 8; ++column) {
      sums[at * D + column * 8 + c0] = out[column][2 * half];
      sums[at * D + column * 8 + c0 + 1] = out[column][2 * half + 1];
    }
    const float total = quad_sum(sum[half]);
    if (lane % 4 == 0) {
      stats[2 * at] = most[half];
      stats[2 * at + 1] = total;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < heads * D; i += kWarps * 32) {
    const int head = i / D, column = i % D;
    float top = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, stats[2 * (w * kRows + head)]);
    float total = 0.0f, value = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const int at = w * kRows + head;
      const float weight = power_of_2(stats[2 * at] - top);  // 0 for a warp without pages
      total += weight * stats[2 * at + 1];
      value += weight * sums[at * D + column];
    }
    value /= total;
    if (num_splits == 1) {
      put(static_cast<T*>(a.out) + (out_row + head) * D + column, value);
    } else {
      const int64_t at = partials.at(split, part_row + head);
      partials.out[at * D + column] = value;
      if (column == 0) partials.log_sum[at] = top + log2f(total);
    }
  }
}

// A block a head and sequence; its threads are groups of D, each with its share of the splits.
template <class T, int D>
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(const Attention a, Partials partials, int num_splits) {
  constexpr int kGroups = kMergeThreads / D;
  __shared__ float weights[kMaxSplits], sums[kGroups][D];
  const int head = blockIdx.x, b = blockIdx.y;
  const int64_t row = a.query_start[b], at = static_cast<int64_t>(b) * a.num_heads + head;
  if (a.query_start[b + 1] - row != 1) return;

  if (threadIdx.x < 32) {  // one warp turns logarithms to weights that add up to 1
    float top = -INFINITY, total = 0.0f;
    for (int split = threadIdx.x; split < num_splits; split += 32) {
      weights[split] = partials.log_sum[partials.at(split, at)];
      top = fmaxf(top, weights[split]);
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, i));
    for (int split = threadIdx.x; split < num_splits; split += 32) {
      weights[split] = power_of_2(weights[split] - top);
      total += weights[split];
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) total += __shfl_xor_sync(0xffffffffu, total, i);
    for (int split = threadIdx.x; split < num_splits; split += 32) weights[split] /= total;
  }
  __syncthreads();
  const int group = threadIdx.x / D, column = threadIdx.x % D;
  if (group < kGroups) {
    float sum = 0.0f;
#pragma unroll 8
    for (int split = group; split < num_splits; split += kGroups) {
      // A split without keys left nothing: whatever lies there must not count.
      const float value = partials.out[partials.at(split, at) * D + column];
      sum += weights[split] > 0.0f ? weights[split] * value : 0.0f;
    }
    sums[group][column] = sum;
  }
  __syncthreads();
  if (threadIdx.x < D) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) sum += sums[i][threadIdx.x];
    put(static_cast<T*>(a.out) + (row * a.num_heads + head) * D + threadIdx.x, sum);
  }
}

int tiles_of(const Attention& a) {
  const int group = a.num_heads / a.num_kv_heads;
  return a.num_kv_heads * ((group + kRows - 1) / kRows);
}

}  // namespace

int decode_splits(const Attention& a, int num_sms) {
  const int64_t blocks = static_cast<int64_t>(a.batch) * tiles_of(a);
  const int64_t slots = 2 * static_cast<int64_t>(num_sms);  // two blocks run on a multiprocessor
  const int64_t pages = (a.max_seq_len + kPage - 1) / kPage;
  // A split of fewer than two pages a warp isn't worth its merge.
  const int64_t most = std::min<int64_t>(std::max<int64_t>(1, pages / (2 * kWarps)), kMaxSplits);
  if (blocks < slots) return static_cast<int>(std::clamp<int64_t>(slots / blocks, 1, most));
  // More than one wave: the fewest splits that fill the last wave well.
  for (int splits = 1; splits <= std::min<int64_t>(most, 4); ++splits) {
    const int64_t waves = (blocks * splits + slots - 1) / slots;
    if (10 * blocks * splits >= 8 * waves * slots) return splits;
  }
  return 1;
}

cudaError_t decode(const Attention& a, int num_splits, float* workspace, cudaStream_t stream) {
  Partials partials{};
  partials.rows = static_cast<int64_t>(a.batch) * a.num_heads;
  partials.log_sum = workspace;
  partials.out = workspace + num_splits * partials.rows;
  cudaError_t error = cudaSuccess;
  dispatch(a, [&]<class T, int D>() {
    constexpr int kBytes = Shape<D>::kBytes;
    error = cudaFuncSetAttribute(decode_kernel<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 kBytes);
    if (error != cudaSuccess) return;
    const dim3 grid(num_splits, tiles_of(a), a.batch);
    decode_kernel<T, D><<<grid, kWarps * 32, kBytes, stream>>>(a, partials);
    if (num_splits > 1) {
      const dim3 each(a.num_heads, a.batch);
      merge_kernel<T, D><<<each, kMergeThreads, 0, stream>>>(a, partials, num_splits);
    }
    error = cudaGetLastError();
  });
  return error;
}

cudaError_t probe_decode() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, decode_kernel<BFloat16, 128>);
}

}  // namespace sensorium::cuda
