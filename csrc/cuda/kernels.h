// The CUDA kernels' entry points. They allocate nothing, wait for nothing and read nothing back, so
// all of them can be captured in a graph.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "attention.h"
#include "elementwise.h"

namespace sensorium {

// What of the device the choice of kernels depends on.
struct Device {
  int num_sms;
  bool is_hopper;  // compute capability 9.0
};

int64_t attention_workspace_bytes(const Attention& attention, const Device& device);
cudaError_t attention(const Attention& attention, void* workspace, const Device& device,
                      cudaStream_t stream);
// For tests: without the kernels that only Hopper has.
void use_general_kernels(bool only);

cudaError_t rope_store(const RopeStore& store, cudaStream_t stream);
cudaError_t rope(const Rope& rope, cudaStream_t stream);
cudaError_t rms_norm(const RmsNorm& norm, cudaStream_t stream);
cudaError_t silu_mul(const SiluMul& gate, cudaStream_t stream);

// Whether a kernel of this library can run on the current device.
cudaError_t probe();

namespace cuda {

// Decode: one query a sequence, keys split over blocks. Sequences of more queries are left out.
int decode_splits(const Attention& attention, int num_sms);
cudaError_t decode(const Attention& attention, int num_splits, float* workspace,
                   cudaStream_t stream);
// Prefill and extend. Where `skip_single`, sequences of one query are left out.
cudaError_t prefill(const Attention& attention, bool skip_single, cudaStream_t stream);
// The same on Hopper, for some head sizes.
bool has_prefill_sm90(const Attention& attention);
cudaError_t prefill_sm90(const Attention& attention, bool skip_single, cudaStream_t stream);
cudaError_t probe_decode();

}  // namespace cuda
}  // namespace sensorium
