// The processor's matrix unit (AMX): whether it is there, and its setting up.
#pragma once

#include <cstdint>

#if defined(__AMX_TILE__) && defined(__linux__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace paceline {

constexpr int TILE_BYTES = 64;  // of a row of a tile
constexpr int SIDE = 16;        // most rows of a tile, and columns of 4 bytes
constexpr int NUM_TILES = 8;

// Whether this process may use the unit: Linux gives its large registers only to who asks.
inline bool may_use_tiles() {
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// Sets the calling thread's unit up: `rows(tile)` says how many rows each tile has, all of TILE_BYTES.
template <typename Rows>
void set_up_tiles(const Rows& rows) {
    struct alignas(64) {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config{};
    config.palette = 1;
    for (int tile = 0; tile < NUM_TILES; ++tile) {
        config.row_bytes[tile] = TILE_BYTES;
        config.rows[tile] = uint8_t(rows(tile));
    }
    _tile_loadconfig(&config);
}

// The compiler doesn't know that tiles are loaded from and stored to memory.
inline void tiles_written() { __asm__ volatile("" ::: "memory"); }

}  // namespace paceline
#endif
