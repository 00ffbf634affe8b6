// Which kernels one call of attention takes.
#include <atomic>

#include "cuda/attention.cuh"
#include "cuda/kernels.h"

namespace sensorium {
namespace {

constexpr int kMaxGrid = 65535;  // blocks in a launch's second and third dimension

std::atomic<bool> only_general{false};

bool aligned(const void* pointer, int64_t row_stride, int64_t head_stride, int64_t page_stride) {
  // Pieces of 16 bytes, 8 elements.
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && row_stride % 8 == 0 &&
         head_stride % 8 == 0 && page_stride % 8 == 0;
}

// Sequences of one query go to the decode kernel wherever keys lie in pages; both kernels run where
// a batch may hold both kinds.
bool decodes(const Attention& a) { return a.page_table != nullptr; }
bool prefills(const Attention& a) { return a.page_table == nullptr || a.max_query_len > 1; }

}  // namespace

bool attention_fits(const Attention& a, const char** why) {
  const int size = a.head_size;
  if (size != 64 && size != 80 && size != 96 && size != 128 && size != 256) {
    *why = "have another head size than 64, 80, 96, 128 or 256";
  } else if (a.dtype == DType::kFloat32) {
    *why = "are float32; on CUDA allowed are float16 and bfloat16";
  } else if (a.page_table != nullptr && a.page_size != cuda::kPage) {
    *why = "have pages of another size than 16 tokens";
  } else if (a.num_heads > kMaxGrid || a.batch > kMaxGrid) {
    *why = "have more than 65535 heads or sequences";
  } else if (!(a.scale > 0.0f)) {
    *why = "have a scale that isn't positive";
  } else if (!aligned(a.q, a.q_row_stride, a.q_head_stride, 0) ||
             !aligned(a.k, a.k_row_stride, a.k_head_stride, a.k_page_stride) ||
             !aligned(a.v, a.v_row_stride, a.v_head_stride, a.v_page_stride)) {
    *why = "have addresses or strides that aren't multiples of 16 bytes";
  } else {
    return true;
  }
  return false;
}

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
