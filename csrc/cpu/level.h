// What the files that are compiled once for each instruction set have in common.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace sensorium::SENSORIUM_ISA {

void attention_piece(const Attention&, const AttentionPlan&, int64_t piece, float* scratch,
                     float* partials);
void attention_merge(const Attention&, const AttentionPlan&, int64_t first_row, int64_t last_row,
                     const float* partials);
void rope_store(const RopeStore&, int64_t first_token, int64_t last_token);
void rms_norm(const RmsNorm&, int64_t first_row, int64_t last_row);
void silu_mul(const SiluMul&, int64_t first_row, int64_t last_row);
int64_t linear_scratch(const Linear&);
void linear(const Linear&, int64_t first_output, int64_t last_output, float* scratch);
void cut_blocks(const CutBlocks&, int64_t first_row, int64_t last_row, float* scratch);
void cubic_sample(const CubicSample&, int64_t first_row, int64_t last_row, float* scratch);
int64_t spectra_scratch(const Spectra&);
void spectra(const Spectra&, const SpectraPlan&, int64_t first_row, int64_t last_row,
             float* scratch);

}  // namespace sensorium::SENSORIUM_ISA
