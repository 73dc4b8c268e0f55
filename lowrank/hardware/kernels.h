// What fused.cpp and thin.cpp share: the shape of their images, and the numbers in them.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

using Row = std::vector<float>;

struct Shape {
    long images, height, width, channels;
    int threads;
};

struct bfloat16 {
    uint16_t bits;
};

static inline float widened(float value) { return value; }

static inline float widened(bfloat16 value) {
    const uint32_t bits = uint32_t(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

static inline void put(float& place, float value) { place = value; }

static inline void put(bfloat16& place, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    place.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
}
