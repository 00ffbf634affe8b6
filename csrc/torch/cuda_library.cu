// The ops on CUDA: contracts, the current stream, scratch memory, and a launch.
#include <cuda_runtime.h>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cuda/kernels.h"
#include "torch/arguments.h"

namespace sensorium {
namespace {

// Where an op runs: its tensors' device made current, torch's stream on it.
class Launch {
 public:
  Launch(const char* op, const Tensor& x)
      : contract_(op), guard_(x.get_device_index()), device_(x.get_device_index()) {
    void* stream = nullptr;
    const bool good = aoti_torch_get_current_cuda_stream(device_, &stream) == AOTI_TORCH_SUCCESS;
    contract_.require(good, "(stream)", "torch gives no current stream");
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  Device device() const {
    Device device{};
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&device.num_sms, cudaDevAttrMultiProcessorCount, device_));
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_));
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_));
    device.is_hopper = major == 9 && minor == 0;
    return device;
  }

  void check(cudaError_t error) const {
    contract_.require(error == cudaSuccess, "(launch)", "failed: ", cudaGetErrorString(error));
  }

 private:
  Contract contract_;
  torch::stable::accelerator::DeviceGuard guard_;
  int device_;
  cudaStream_t stream_ = nullptr;
};

constexpr int kMaxGrid = 65535;  // blocks in a launch's second and third dimension

// Pieces of 16 bytes, 8 elements.
bool aligned(const void* pointer, int64_t row_stride, int64_t head_stride, int64_t page_stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && row_stride % 8 == 0 &&
         head_stride % 8 == 0 && page_stride % 8 == 0;
}

// What CUDA's attention asks beyond the contract that both devices share.
void check_attention(const Contract& c, const Attention& a) {
  const int size = a.head_size;
  const bool paged = a.page_table != nullptr;
  const char* uneven = "lies at an address, or has strides, that aren't multiples of 16 bytes";
  c.require(a.dtype != DType::kFloat32, "q",
            "has dtype float32; on CUDA allowed are float16 and bfloat16");
  c.require(size == 64 || size == 80 || size == 96 || size == 128 || size == 256, "q",
            "has heads of ", size, "; on CUDA allowed are 64, 80, 96, 128 and 256");
  c.require(a.num_heads <= kMaxGrid, "q", "has ", a.num_heads, " heads; on CUDA allowed are ",
            kMaxGrid);
  c.require(a.batch <= kMaxGrid, paged ? "query_start" : "cu_seqlens", "has ", a.batch,
            " sequences; on CUDA allowed are ", kMaxGrid);
  c.require(a.scale > 0, "scale", "is ", a.scale, "; on CUDA it must be positive");
  c.require(!paged || a.page_size == 16, "kv", "has pages of ", a.page_size,
            " tokens; on CUDA they must have 16");
  c.require(aligned(a.q, a.q_row_stride, a.q_head_stride, 0), "q", uneven);
  c.require(aligned(a.k, a.k_row_stride, a.k_head_stride, a.k_page_stride), paged ? "kv" : "k",
            uneven);
  c.require(aligned(a.v, a.v_row_stride, a.v_head_stride, a.v_page_stride), paged ? "kv" : "v",
            uneven);
}

Tensor run_attention(const char* op, Attention& a, const Tensor& q, const Tensor& out) {
  check_attention(Contract(op), a);
  if (a.num_queries == 0) return out;
  const Launch launch(op, q);
  const Device device = launch.device();
  const int64_t bytes = attention_workspace_bytes(a, device);
  const Tensor workspace = torch::stable::new_empty(q, {bytes}, ScalarType::Byte);
  launch.check(attention(a, workspace.mutable_data_ptr(), device, launch.stream()));
  return out;
}

Tensor paged_attention_cuda(Tensor q, Tensor kv, Tensor query_start, Tensor seq_lens,
                            Tensor page_table, std::optional<Tensor> reach, int64_t max_query_len,
                            int64_t max_seq_len, double scale, int64_t window, double soft_cap) {
  const Tensor out = torch::stable::new_empty(q, q.sizes());
  Attention a = paged_arguments(q, kv, query_start, seq_lens, page_table, reach, max_query_len,
                                max_seq_len, scale, window, soft_cap, out);
  return run_attention("paged_attention", a, q, out);
}

Tensor varlen_attention_cuda(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, int64_t max_len,
                             double scale, bool causal) {
  const Tensor out = torch::stable::new_empty(q, q.sizes());
  Attention a = varlen_arguments(q, k, v, cu_seqlens, max_len, scale, causal, out);
  return run_attention("varlen_attention", a, q, out);
}

void store_kv_cuda(Tensor k, Tensor v, Tensor kv, Tensor slot_mapping) {
  const RopeStore s = store_arguments("store_kv", {}, k, v, {}, {}, kv, slot_mapping);
  if (s.num_tokens == 0) return;
  const Launch launch("store_kv", k);
  launch.check(rope_store(s, launch.stream()));
}

void rope_store_kv_cuda(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor kv,
                        Tensor slot_mapping) {
  const RopeStore s = store_arguments("rope_store_kv", q, k, v, cos, sin, kv, slot_mapping);
  if (s.num_tokens == 0) return;
  const Launch launch("rope_store_kv", q);
  launch.check(rope_store(s, launch.stream()));
}

void rope_cuda(Tensor x, Tensor cos, Tensor sin) {
  const Rope r = rope_arguments(x, cos, sin);
  if (r.num_tokens == 0 || r.num_heads == 0 || r.rotary_size == 0) return;
  const Launch launch("rope", x);
  launch.check(rope(r, launch.stream()));
}

Tensor run_norm(const char* op, const Tensor& x, const std::optional<Tensor>& residual,
                const Tensor& weight, double eps, bool wide, double offset) {
  const Tensor out = torch::stable::new_empty(x, x.sizes());
  const RmsNorm n = norm_arguments(op, x, residual, weight, eps, wide, offset, out);
  if (n.rows == 0) return out;
  const Launch launch(op, x);
  launch.check(rms_norm(n, launch.stream()));
  return out;
}

Tensor rms_norm_cuda(Tensor x, Tensor weight, double eps, bool wide, double offset) {
  return run_norm("rms_norm", x, {}, weight, eps, wide, offset);
}

Tensor add_rms_norm_cuda(Tensor x, Tensor residual, Tensor weight, double eps, bool wide,
                         double offset) {
  return run_norm("add_rms_norm", x, residual, weight, eps, wide, offset);
}

Tensor silu_mul_cuda(Tensor x) {
  const Contract c("silu_mul");
  c.dims(x, "x", 2);
  const Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1) / 2});
  const SiluMul s = silu_arguments(x, out);
  if (s.rows == 0 || s.size == 0) return out;
  const Launch launch("silu_mul", x);
  launch.check(silu_mul(s, launch.stream()));
  return out;
}

}  // namespace
}  // namespace sensorium

STABLE_TORCH_LIBRARY_IMPL(sensorium, CUDA, m) {
  m.impl("paged_attention", TORCH_BOX(&sensorium::paged_attention_cuda));
  m.impl("varlen_attention", TORCH_BOX(&sensorium::varlen_attention_cuda));
  m.impl("store_kv", TORCH_BOX(&sensorium::store_kv_cuda));
  m.impl("rope_store_kv", TORCH_BOX(&sensorium::rope_store_kv_cuda));
  m.impl("rope", TORCH_BOX(&sensorium::rope_cuda));
  m.impl("rms_norm", TORCH_BOX(&sensorium::rms_norm_cuda));
  m.impl("add_rms_norm", TORCH_BOX(&sensorium::add_rms_norm_cuda));
  m.impl("silu_mul", TORCH_BOX(&sensorium::silu_mul_cuda));
}

// Whether a kernel of this library can run on a device: 0, or the cudaError_t that stands against
// it (no code for its compute capability, a driver too old for the runtime or for the PTX).
extern "C" __attribute__((visibility("default"))) int sensorium_cuda_error(int device) {
  int before = 0;
  cudaError_t error = cudaGetDevice(&before);
  if (error == cudaSuccess) error = cudaSetDevice(device);
  if (error == cudaSuccess) error = sensorium::probe();
  cudaSetDevice(before);
  cudaGetLastError();
  return static_cast<int>(error);
}

// Tests try the general kernels on Hopper too.
extern "C" __attribute__((visibility("default"))) void sensorium_cuda_general(int only) {
  sensorium::use_general_kernels(only != 0);
}
