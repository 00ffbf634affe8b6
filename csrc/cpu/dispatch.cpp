// Which instruction set's kernels are used, and how attention is cut into pieces.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/kernels.h"

#define SENSORIUM_DECLARE(level)                                                              \
  namespace sensorium::level {                                                                \
  void attention_piece(const Attention&, const AttentionPlan&, int64_t, float*, float*);      \
  void attention_merge(const Attention&, const AttentionPlan&, int64_t, int64_t, const float*); \
  void rope_store(const RopeStore&, int64_t, int64_t);                                        \
  void rope(const Rope&, int64_t, int64_t);                                                   \
  void rms_norm(const RmsNorm&, int64_t, int64_t);                                            \
  void silu_mul(const SiluMul&, int64_t, int64_t);                                            \
  int64_t linear_scratch(const Linear&);                                                      \
  void linear(const Linear&, int64_t, int64_t, float*);                                       \
  void cut_blocks(const CutBlocks&, int64_t, int64_t, float*);                                \
  void cubic_sample(const CubicSample&, int64_t, int64_t, float*);                            \
  int64_t spectra_scratch(const Spectra&);                                                    \
  void spectra(const Spectra&, const SpectraPlan&, int64_t, int64_t, float*);                 \
  }
#define SENSORIUM_TABLE(level)                                                             \
  {#level, 16, level::attention_piece, level::attention_merge, level::rope_store, level::rope, \
   level::rms_norm, level::silu_mul, level::linear_scratch, level::linear,                 \
   level::cut_blocks, level::cubic_sample, level::spectra_scratch, level::spectra}

SENSORIUM_DECLARE(plain)
#ifdef SENSORIUM_HAS_AVX2
SENSORIUM_DECLARE(avx2)
SENSORIUM_DECLARE(avx512)
SENSORIUM_DECLARE(avx512bf16)
#endif

namespace sensorium {
namespace {

const CpuKernels kLevels[] = {
#ifdef SENSORIUM_HAS_AVX2
    SENSORIUM_TABLE(avx512bf16), SENSORIUM_TABLE(avx512), SENSORIUM_TABLE(avx2),
#endif
    SENSORIUM_TABLE(plain)};

bool runs(const char* level) {
#ifdef SENSORIUM_HAS_AVX2
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (std::strcmp(level, "avx512bf16") == 0) {
    return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  if (std::strcmp(level, "avx512") == 0) return avx512;
  if (std::strcmp(level, "avx2") == 0) return avx2;
#endif
  return std::strcmp(level, "plain") == 0;
}

const CpuKernels* best() {
  for (const CpuKernels& kernels : kLevels) {
    if (runs(kernels.level)) return &kernels;
  }
  return &kLevels[std::size(kLevels) - 1];
}

std::atomic<const CpuKernels*> chosen{nullptr};

}  // namespace

const CpuKernels& cpu_kernels() {
  const CpuKernels* kernels = chosen.load(std::memory_order_relaxed);
  if (kernels == nullptr) {
    kernels = best();
    chosen.store(kernels, std::memory_order_relaxed);
  }
  return *kernels;
}

bool force_cpu_level(const char* level) {
  for (const CpuKernels& kernels : kLevels) {
    if (std::strcmp(kernels.level, level) == 0 && runs(level)) {
      chosen.store(&kernels, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

AttentionPlan plan_attention(const Attention& a, int num_threads) {
  // About 48 rows a tile: enough that copying a block of keys is cheap beside the product with it.
  constexpr int kRows = 48, kKeys = 64, kKeysOfSplit = 256;
  const int group = a.num_heads / a.num_kv_heads;
  AttentionPlan plan{};
  plan.block_queries = std::max(1, std::min(std::max(1, kRows / group), a.max_query_len));
  plan.num_blocks = (a.max_query_len + plan.block_queries - 1) / plan.block_queries;
  const int64_t tiles = static_cast<int64_t>(a.batch) * a.num_kv_heads * plan.num_blocks;
  plan.num_splits = 1;
  if (num_threads > 1 && tiles < 4 * num_threads && a.max_query_len == 1) {
    const int64_t wanted = (4 * num_threads + tiles - 1) / std::max<int64_t>(1, tiles);
    const int64_t most = std::max(1, a.max_seq_len / kKeysOfSplit);
    plan.num_splits = static_cast<int32_t>(std::min<int64_t>({wanted, most, kMaxSplits}));
  }
  plan.num_pieces = tiles * plan.num_splits;
  const int64_t stride = (a.head_size + 31) / 32 * 32;
  const int64_t rows = static_cast<int64_t>(plan.block_queries) * group;
  plan.scratch_floats = rows * (2 * stride + kKeys + 4) + 2 * stride * kKeys;
  if (plan.num_splits > 1) {
    plan.partial_floats = static_cast<int64_t>(plan.num_splits) * a.num_queries * a.num_heads *
                          (a.head_size + 2);
  }
  return plan;
}

}  // namespace sensorium
