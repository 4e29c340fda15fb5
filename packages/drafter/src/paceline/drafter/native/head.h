// A feature head: one decoder layer over the target's states and its own, its weights in int8.
#pragma once

#include <cstdint>

extern "C" {

// Must agree with native/binding.py.
struct PacelineHeadConfig {
    int64_t width, heads, key_heads, head_size, intermediate, vocabulary, num_features, feature_size, max_length,
        threads;
    float epsilon;
    int32_t tiles;  // whether the processor's matrix unit may be used, where there is one
};

struct PacelineHeadSession {
    int64_t count, length;   // rows, and rows that its cache holds
    const uint8_t* visible;  // [count][length + count]
    float *keys, *values;    // its cache, see attention.h; with room for the rows
    float* states;           // [..][width] of its rows
    const float* features;   // [count][num_features * feature_size], or null:
    const int64_t* above;    // [count] cached rows whose states stand in
    const float* borrowed;   // [num_borrowed][width] embeddings of ids vocabulary + 1, ...
    int64_t num_borrowed;
    int64_t num_wanted;
    const int64_t* wanted;   // [num_wanted] of its rows
    float scale;             // of logits, for totals and entropies
    int64_t num_best;
    float* logits;           // [num_wanted][vocabulary + 1 + num_borrowed, or vocabulary if nothing is]; or null
    int64_t* best;           // [num_wanted][num_best] ids of the greatest logits, greatest first; ties by id
    float* best_logits;      // [num_wanted][num_best]
    double* log_totals;      // [num_wanted] logarithm of the sum of exp(scale * (logit - greatest))
    double* entropies;       // [num_wanted] in nats
};

struct PacelineHeadStep {
    int64_t num_sessions;
    const int64_t *tokens, *positions;  // [rows] of all sessions, one behind the other
    const PacelineHeadSession* sessions;
};
}
