// What the attention kernels have in common: a query's run of keys, and where a token lies.
#pragma once

#include "attention.h"
#include "cuda/primitives.cuh"

namespace sensorium::cuda {

constexpr int kPage = 16;

struct Run {
  int first, last;
};

// What the query in row `row` sees, being token `index` of a sequence of `length`.
__device__ inline Run run_of(const Attention& a, int row, int index, int length) {
  Run run{0, length};
  if (a.causal) {
    run.last = index + 1;
    if (a.window > 0) run.first = max(0, index + 1 - a.window);
  }
  if (a.reach != nullptr) {
    run.first = max(0, min(run.first, a.reach[2 * static_cast<int64_t>(row)]));
    run.last = min(length, max(run.last, a.reach[2 * static_cast<int64_t>(row) + 1]));
  }
  return run;
}

// What the rows of a block see: any of them, and all of them.
struct Runs {
  Run any, all;
};

// Of `count` rows from `row` on, tokens `index` … of their sequence. Where ranges reach ahead, every
// thread looks at one row (or none) and the block agrees; a block has no more rows than threads.
__device__ inline Runs runs_of(const Attention& a, int row, int index, int count, int length) {
  if (a.reach == nullptr) {  // both ends ascend with the row
    const Run first = run_of(a, row, index, length);
    const Run last = run_of(a, row + count - 1, index + count - 1, length);
    return {{first.first, last.last}, {last.first, first.last}};
  }
  __shared__ int shared[4];
  if (threadIdx.x == 0) {
    shared[0] = shared[3] = length;
    shared[1] = shared[2] = 0;
  }
  __syncthreads();
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

// A score in units of log₂: capped where there is a cap.
__device__ inline float capped(float score, float scale, float cap) {
  return cap * tanhf(score * scale / cap) * kLog2e;
}

// Calls f with the type and the head size as template arguments; false if they aren't compiled.
template <class F>
bool dispatch(const Attention& a, const F& f) {
  const auto sizes = [&](auto type) {
    using T = decltype(type);
    switch (a.head_size) {
      case 64: f.template operator()<T, 64>(); return true;
      case 80: f.template operator()<T, 80>(); return true;
      case 96: f.template operator()<T, 96>(); return true;
      case 128: f.template operator()<T, 128>(); return true;
      case 256: f.template operator()<T, 256>(); return true;
      default: return false;
    }
  };
  if (a.dtype == DType::kBFloat16) return sizes(BFloat16{});
  if (a.dtype == DType::kFloat16) return sizes(Half{});
  return false;
}

}  // namespace sensorium::cuda
