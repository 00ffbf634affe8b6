// A run of the CPU's ops that was recorded and is carried out again as often as wanted: what CUDA
// graphs are to a GPU. Nothing is allocated, checked or dispatched then, and one team of threads
// goes through all of it. What steps read from outside (weights, pages, inputs) must still lie
// where it lay; what they wrote lies in one block of memory, results that are needed no more making
// room for later ones.
//
//   add, add, … → lay_out → place → replay, replay, …
#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/team.h"

namespace sensorium {

class Program {
 public:
  using Step = std::variant<Linear, RmsNorm, SiluMul, RopeStore, Attention>;

  // Notes a step; its result, if it has one of its own, is `bytes` at `out`.
  void add(const Step& step, const void* out, int64_t bytes);

  // Decides where results will lie, the one at `kept` until the end; returns how many bytes all of
  // them need. -1: there is no result at `kept`.
  int64_t lay_out(const void* kept);

  // Gives the results their memory; returns where the kept one lies in it. Once, before replay.
  int64_t place(char* memory);

  // Makes room for this many threads. Before a team is made of them.
  void prepare(int threads);

  // Every thread of the team calls it.
  void work(Team& team) const;

 private:
  struct Result {
    const char* at;
    int64_t bytes;
    int born, dies;  // steps: that which writes it, the last that reads it
    int64_t offset;
  };

  Result* result_of(const void* pointer);

  std::vector<Step> steps_;
  std::vector<Result> results_;
  Result* kept_ = nullptr;
  int threads_ = 0;
  int64_t scratch_floats_ = 0;
  std::unique_ptr<float[]> scratch_, partials_;
};

}  // namespace sensorium
