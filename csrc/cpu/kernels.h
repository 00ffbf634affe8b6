// The CPU's kernels: what is called for one piece of work. Pieces are independent of each other and
// may run on any thread; who deals them out is the caller's matter.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "attention.h"
#include "elementwise.h"

namespace sensorium {

// y = x · weightᵀ + bias.
struct Linear {
  const void* x;  // (rows, in_size)
  int64_t x_row_stride;
  const void* weight;  // (out_size, in_size)
  int64_t weight_row_stride;
  const void* bias;  // (out_size), or null
  void* out;         // (rows, out_size), contiguous
  int32_t rows, in_size, out_size;
  DType dtype;
};

// Grids of cells, cut into square blocks: out[block][c][y][x] = (cell's channel c - mean[c]) / std[c],
// blocks by grid, row and column. What is left over on the far sides is cut off.
struct CutBlocks {
  const void* x;  // (grids, height, width, channels), contiguous: bytes or floats
  bool bytes;
  int32_t height, width, channels;
  int32_t size;           // of a block, in cells
  int32_t rows, columns;  // of blocks in a grid
  const float* mean;      // (channels)
  const float* std;
  float* out;  // (grids · rows · columns, channels, size, size)
};

// A grid resampled: each cell is the weighted sum of four lines' cells in four columns.
struct CubicSample {
  const uint8_t* x;  // (height, width, channels), contiguous
  int32_t width, channels, columns;
  const int32_t* row_cells;  // (rows, 4): which lines; likewise which columns
  const int32_t* column_cells;
  const float* row_weights;  // (rows, 4)
  const float* column_weights;
  float* out;  // (rows, columns, channels)
};

// Power spectra of overlapping windows, weighed by a bank of filters:
//   power[r][k] = |Σ_n samples[r · hop + n] · window[n] · e^(-2πi kn / size)|²
//   out[r][f] = log10(max(least, Σ_k power[r][k] · bank[k][f])),  k from 0 to size / 2
// The transform is computed in float64, the sum and its logarithm in float32.
struct Spectra {
  const float* samples;
  const double* window;  // (size)
  const float* bank;     // (size / 2 + 1, filters), contiguous
  float* out;            // (rows, filters), contiguous
  int64_t rows, hop;
  int32_t size, filters;
  float least;
};

// What all windows of a call have in common. `turns` are the cosine and sine of each step of the
// transform of size / 2 complex numbers, in the order of their use; `real_turns` those that make a
// real transform of it. `weights` are a quarter of the bank's between the first and the last that
// isn't 0, filter by filter, and `seen` says which frequencies those are.
struct SpectraPlan {
  std::vector<int> radices;
  std::vector<double> turns, real_turns;
  std::vector<std::pair<int, int>> seen;
  std::vector<float> weights;
};

// The radices of size / 2; none where size is odd, or half of it is 1 or has a prime factor above 5.
std::vector<int> radices_of(int size);
SpectraPlan plan_spectra(const Spectra& spectra, std::vector<int> radices);

// How one call of attention is cut into pieces: (sequence, key head, block of queries, split of the
// keys), in this order, the last the fastest. With more than one split the pieces leave partial
// sums in `partials`, and `merge` makes the result of them.
struct AttentionPlan {
  int32_t block_queries;  // queries of a block; with the heads of a group they are a tile's rows
  int32_t num_blocks;     // of the longest sequence
  int32_t num_splits;
  int64_t num_pieces;
  int64_t scratch_floats;   // that a thread needs
  int64_t partial_floats;   // that the call needs
};

constexpr int kMaxSplits = 64;

AttentionPlan plan_attention(const Attention& attention, int num_threads);

// The kernels of one instruction set.
struct CpuKernels {
  const char* level;
  int32_t linear_block;  // outputs of one piece
  void (*attention_piece)(const Attention&, const AttentionPlan&, int64_t piece, float* scratch,
                          float* partials);
  void (*attention_merge)(const Attention&, const AttentionPlan&, int64_t first_row,
                          int64_t last_row, const float* partials);
  void (*rope_store)(const RopeStore&, int64_t first_token, int64_t last_token);
  void (*rope)(const Rope&, int64_t first_token, int64_t last_token);
  void (*rms_norm)(const RmsNorm&, int64_t first_row, int64_t last_row);
  void (*silu_mul)(const SiluMul&, int64_t first_row, int64_t last_row);
  int64_t (*linear_scratch)(const Linear&);  // floats that a thread needs
  void (*linear)(const Linear&, int64_t first_output, int64_t last_output, float* scratch);
  // A row of blocks each; scratch for its floats, and size² more.
  void (*cut_blocks)(const CutBlocks&, int64_t first_row, int64_t last_row, float* scratch);
  // A row of the result each; scratch for the floats of one line.
  void (*cubic_sample)(const CubicSample&, int64_t first_row, int64_t last_row, float* scratch);
  int64_t (*spectra_scratch)(const Spectra&);  // floats that a thread needs
  void (*spectra)(const Spectra&, const SpectraPlan&, int64_t first_row, int64_t last_row,
                  float* scratch);
};

// The best that this processor runs, or what was forced.
const CpuKernels& cpu_kernels();
// Whether the processor and the library have this level; then it is used from now on.
bool force_cpu_level(const char* level);

}  // namespace sensorium
