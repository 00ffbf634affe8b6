// Grids of cells, a few channels each: cut into blocks of normalised values, and sampled by cubics.
#include "cpu/level.h"

namespace sensorium::SENSORIUM_ISA {
namespace {

// The channels of a line of cells, one behind another: to[c][i] = from[i][c].
template <class T>
void part(const T* from, T* __restrict to, int64_t cells, int channels) {
  if (channels == 3) {
    T *first = to, *second = to + cells, *third = to + 2 * cells;
#pragma GCC ivdep
    for (int64_t i = 0; i < cells; ++i) {
      first[i] = from[3 * i];
      second[i] = from[3 * i + 1];
      third[i] = from[3 * i + 2];
    }
    return;
  }
  for (int c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < cells; ++i) to[c * cells + i] = from[i * channels + c];
  }
}

// kSize: the blocks' size where the compiler is to know it, else 0. What is written is written in
// order; the channels of a row's lines are parted before.
template <int kSize, class T>
void cut_rows(const CutBlocks& b, int64_t first, int64_t last, float* scratch) {
  const int64_t size = kSize == 0 ? b.size : kSize;
  const int64_t cells = b.columns * size, line = int64_t{b.width} * b.channels;
  const int64_t area = size * size;
  T* const block = reinterpret_cast<T*>(scratch);  // one channel of a block
  T* const parted = block + area;                  // (size, channels, cells)
  for (int64_t row = first; row < last; ++row) {
    const T* from = static_cast<const T*>(b.x) +
                    (row / b.rows * b.height + row % b.rows * size) * line;
    for (int64_t y = 0; y < size; ++y) {
      part(from + y * line, parted + y * b.channels * cells, cells, b.channels);
    }
    float* __restrict to = b.out + row * b.columns * b.channels * area;
    for (int64_t column = 0; column < b.columns; ++column) {
      for (int64_t c = 0; c < b.channels; ++c) {
        const T* run = parted + c * cells + column * size;
        for (int64_t y = 0; y < size; ++y) {
          std::memcpy(block + y * size, run + y * b.channels * cells, sizeof(T) * size);
        }
        const float mean = b.mean[c], std = b.std[c];
        for (int64_t i = 0; i < area; ++i) to[i] = (static_cast<float>(block[i]) - mean) / std;
        to += area;
      }
    }
  }
}

template <class T>
void cut_any(const CutBlocks& b, int64_t first, int64_t last, float* scratch) {
  if (b.size == 14) {
    cut_rows<14, T>(b, first, last, scratch);
  } else {
    cut_rows<0, T>(b, first, last, scratch);
  }
}

// The weighted sum of four lines.
void add_lines(const uint8_t* const lines[4], const float* weights, int64_t width,
               float* __restrict to) {
  const uint8_t *a = lines[0], *b = lines[1], *c = lines[2], *d = lines[3];
  const float v = weights[0], w = weights[1], x = weights[2], y = weights[3];
  for (int64_t i = 0; i < width; ++i) to[i] = v * a[i] + w * b[i] + x * c[i] + y * d[i];
}

// The weighted sums of each column's four cells. kChannels: as kSize.
template <int kChannels>
void add_columns(const CubicSample& s, const float* line, float* __restrict to) {
  const int channels = kChannels == 0 ? s.channels : kChannels;
  for (int64_t column = 0; column < s.columns; ++column) {
    const int32_t* cells = s.column_cells + 4 * column;
    const float* weights = s.column_weights + 4 * column;
    for (int c = 0; c < channels; ++c) {
      float sum = 0.0f;
      for (int k = 0; k < 4; ++k) sum += weights[k] * line[int64_t{cells[k]} * channels + c];
      to[column * channels + c] = sum;
    }
  }
}

}  // namespace

void cut_blocks(const CutBlocks& b, int64_t first, int64_t last, float* scratch) {
  if (b.bytes) {
    cut_any<uint8_t>(b, first, last, scratch);
  } else {
    cut_any<float>(b, first, last, scratch);
  }
}

void cubic_sample(const CubicSample& s, int64_t first, int64_t last, float* scratch) {
  const int64_t width = int64_t{s.width} * s.channels;
  for (int64_t row = first; row < last; ++row) {
    const uint8_t* lines[4];
    for (int k = 0; k < 4; ++k) lines[k] = s.x + s.row_cells[4 * row + k] * width;
    add_lines(lines, s.row_weights + 4 * row, width, scratch);
    float* to = s.out + row * s.columns * s.channels;
    if (s.channels == 3) {
      add_columns<3>(s, scratch, to);
    } else {
      add_columns<0>(s, scratch, to);
    }
  }
}

}  // namespace sensorium::SENSORIUM_ISA
