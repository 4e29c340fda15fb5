// Vectors of float, bfloat16 and how one becomes the other, exp.
//
// GCC's and Clang's vector types: the same source for AVX-512, AVX2 and NEON. Nothing here or elsewhere lets the
// compiler reorder a sum: every reduction has an order that is written down.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

namespace paceline {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int TILE_ROWS = 12;  // 12 rows x 2 vectors of sums fill 24 of 32 registers
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int TILE_ROWS = 3;  // 3 x 4 of 16
#else
constexpr int LANES = 4;
constexpr int TILE_ROWS = 3;  // 3 x 8 of 32
#endif

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

using bfloat16 = uint16_t;

inline Floats load(const float* from) {
    Floats value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline Floats broadcast(float value) { return value - Floats{}; }

inline float widen(bfloat16 value) {
    const uint32_t bits = uint32_t(value) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

// To the nearest, ties to even. A NaN stays one.
inline bfloat16 narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bfloat16((bits >> 16) | 0x40u);
    return bfloat16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// exp of each lane, to some 2 units in the last place; exactly 0 below -87 (and for -infinity).
inline Floats exponential(Floats x) {
    const Floats magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Floats low = broadcast(-87.0f), high = broadcast(88.0f);
    const Ints is_zero = x < low;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const Floats shifted = x * 1.44269504088896341f + magic;
    const Floats whole = shifted - magic;
    const Floats rest = (x - whole * 0.693145751953125f) - whole * 1.428606820309417e-6f;
    Floats sum = broadcast(1.0f / 5040.0f);
    sum = sum * rest + 1.0f / 720.0f;
    sum = sum * rest + 1.0f / 120.0f;
    sum = sum * rest + 1.0f / 24.0f;
    sum = sum * rest + 1.0f / 6.0f;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    const Words scaled = (Words)sum + (((Words)shifted - (Words)magic) << 23);
    return is_zero ? Floats{} : (Floats)scaled;
}

// Sum of the lanes, first to last.
inline float total(Floats value) {
    float sum = value[0];
    for (int lane = 1; lane < LANES; ++lane) sum += value[lane];
    return sum;
}

inline float greatest(Floats value) {
    float most = value[0];
    for (int lane = 1; lane < LANES; ++lane) most = value[lane] > most ? value[lane] : most;
    return most;
}

// Whether a comparison holds in any lane.
inline bool any(Ints comparison) {
    uint64_t words[sizeof comparison / sizeof(uint64_t)], all = 0;
    std::memcpy(words, &comparison, sizeof comparison);
    for (uint64_t word : words) all |= word;
    return all != 0;
}

constexpr float NEVER = -std::numeric_limits<float>::infinity();

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace paceline
