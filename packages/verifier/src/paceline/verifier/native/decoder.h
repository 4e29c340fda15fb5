// A Llama-like decoder: its weights as panels, its paged cache of keys and values, one step of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "memory.h"
#include "panels.h"
#include "team.h"

extern "C" {

// Must agree with native/binding.py.
struct PacelineConfig {
    int64_t vocabulary, hidden, layers, heads, key_heads, head_size, intermediate, threads;
    float epsilon, attention_scale, rope_scale;
    int32_t bfloat;  // weights and cache: 1 bfloat16, 0 float32
    int32_t tiles;   // whether the processor's matrix unit may be used, where there is one
};

struct PacelineStep {
    int64_t num_rows, num_sessions, num_wanted;
    const int32_t* tokens;         // [rows]
    const int32_t* parents;        // [rows] index within the session's rows of the row before; -1 for its first
    const int32_t* starts;         // [sessions + 1] first row of each session
    const int32_t* lengths;        // [sessions] committed tokens in the cache
    const int32_t* blocks;         // blocks of all sessions, one session after the other
    const int32_t* block_starts;   // [sessions + 1]
    const int32_t* wanted;         // [wanted] rows whose logits are asked for
    float* logits;                 // [wanted][vocabulary], or null if only the best are asked for
    int64_t num_best;
    int32_t* best;                 // [wanted][num_best] tokens of the greatest logits, greatest first; ties by id
    int64_t num_features;
    const int32_t* feature_layers; // [features] layers behind which the state is captured; 0 is the embedding
    uint16_t* features;            // [rows][features][hidden] bfloat16
};
}

namespace paceline {

constexpr int BLOCK_TOKENS = 64;
constexpr int HALVES = BLOCK_TOKENS / PANEL;

// A weight matrix [columns][inner] in panels, with a bias if the layer has one.
template <typename Weight>
struct Matrix {
    int64_t columns = 0, inner = 0, depth = 0;  // depth: the inner size as the panels have it
    int64_t panels_per_item = 1, stretch = 0;   // stretch: its number in every thread's feed
    Weight* panels = nullptr;
    Array<float> bias;  // padded to whole panels

    int64_t num_panels() const { return (columns + PANEL - 1) / PANEL; }
    int64_t num_items() const { return (num_panels() + panels_per_item - 1) / panels_per_item; }
    const Weight* panel(int64_t index) const { return panels + index * depth * PANEL; }
};

enum Part { QKV, OUT, GATE_UP, DOWN, HEAD, EMBEDDING, INPUT_NORM, POST_NORM, Q_NORM, K_NORM, FINAL_NORM };

constexpr int64_t IDLE_LINES = 4;  // fetched in each turn of a waiting thread

class Decoder {
public:
    virtual ~Decoder() = default;
    virtual void allocate(int64_t blocks) = 0;
    virtual void set(int64_t layer, Part part, const void* data, const float* bias) = 0;
    virtual void forward(const PacelineStep& step) = 0;
    virtual void move(const int32_t* blocks, int64_t count, const int32_t* from, const int32_t* to) = 0;
    virtual int64_t block_bytes() const = 0;
    virtual void forget(int64_t block) = 0;
    virtual const char* product_name() const = 0;

protected:
    explicit Decoder(int threads)
        : feeds_(threads), team_(threads, [this](int thread) { feeds_[thread].fetch(IDLE_LINES); }) {}
    std::vector<Feed> feeds_;  // per thread
    Team team_;
};

std::unique_ptr<Decoder> make_decoder(const PacelineConfig& config, const float* inverse_frequencies,
                                      const int32_t* windows);

}  // namespace paceline
