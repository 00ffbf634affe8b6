// The ops' schemas, the same for every device.
#pragma once

#define SENSORIUM_OPS(define)                                                                    \
  define("paged_attention(Tensor q, Tensor kv, Tensor query_start, Tensor seq_lens, "            \
         "Tensor page_table, Tensor? reach, int max_query_len, int max_seq_len, float scale, "   \
         "int window, float soft_cap) -> Tensor")                                                \
  define("varlen_attention(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, int max_len, "       \
         "float scale, bool causal) -> Tensor")                                                  \
  define("store_kv(Tensor k, Tensor v, Tensor(a!) kv, Tensor slot_mapping) -> ()")               \
  define("rope_store_kv(Tensor(a!) q, Tensor k, Tensor v, Tensor cos, Tensor sin, "              \
         "Tensor(b!) kv, Tensor slot_mapping) -> ()")                                            \
  define("rope(Tensor(a!) x, Tensor cos, Tensor sin) -> ()")                                     \
  define("rms_norm(Tensor x, Tensor weight, float eps, bool wide=False, float offset=0.0) "      \
         "-> Tensor")                                                                            \
  define("add_rms_norm(Tensor x, Tensor(a!) residual, Tensor weight, float eps, "                \
         "bool wide=False, float offset=0.0) -> Tensor")                                         \
  define("silu_mul(Tensor x) -> Tensor")                                                         \
  define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")                              \
  define("log_spectra(Tensor samples, Tensor window, Tensor bank, int hop, float least) -> Tensor")
