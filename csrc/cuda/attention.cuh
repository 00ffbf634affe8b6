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
