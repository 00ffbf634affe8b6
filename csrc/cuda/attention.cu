// Which kernels one call of attention takes.
#include <atomic>

#include "cuda/attention.cuh"
#include "cuda/kernels.h"

namespace sensorium {
namespace {

std::atomic<bool> only_general{false};

// Sequences of one query go to the decode kernel wherever keys lie in pages; both kernels run where
// a batch may hold both kinds.
bool decodes(const Attention& a) { return a.page_table != nullptr; }
bool prefills(const Attention& a) { return a.page_table == nullptr || a.max_query_len > 1; }

}  // namespace

int64_t attention_workspace_bytes(const Attention& a, const Device& device) {
  if (!decodes(a)) return 0;
  const int64_t splits = cuda::decode_splits(a, device.num_sms);
  return splits > 1 ? splits * a.batch * a.num_heads * (a.head_size + 1) * 4 : 0;
}

cudaError_t attention(const Attention& a, void* workspace, const Device& device,
                      cudaStream_t stream) {
  if (a.num_queries == 0 || a.batch == 0 || a.max_query_len == 0) return cudaSuccess;
  cudaError_t error = cudaSuccess;
  if (decodes(a)) {
    const int splits = cuda::decode_splits(a, device.num_sms);
    error = cuda::decode(a, splits, static_cast<float*>(workspace), stream);
  }
  if (error != cudaSuccess || !prefills(a)) return error;
#ifdef SENSORIUM_SM90A
  // Its blocks have 128 queries: short sequences would leave half of them empty.
  const bool is_long = a.max_query_len > 64;
  if (device.is_hopper && is_long && !only_general && cuda::has_prefill_sm90(a)) {
    return cuda::prefill_sm90(a, decodes(a), stream);
  }
#endif
  return cuda::prefill(a, decodes(a), stream);
}

void use_general_kernels(bool only) { only_general = only; }

cudaError_t probe() { return cuda::probe_decode(); }

}  // namespace sensorium
