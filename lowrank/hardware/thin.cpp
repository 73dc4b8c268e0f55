// Batch normalisation, 2x2 max pool (or none) and ReLU of a product y = L z with few inner channels. What a pass costs
// is memory, and z is many times smaller than y: y is made again in every pass, a LANE of channels at a time, and never
// stored.
//
// z is [images, height, width, inner] in bfloat16 or float32, `left` L transposed, [inner, channels]. With a channel's
// scale a and offset b the output is max(0, a y + b) at the pixel of a window where a y is largest. Sums are taken over
// CHUNK images at a time, so that no result depends on the number of threads.

#include "kernels.h"

constexpr long CHUNK = 8;
// As wide as a register: GCC takes wider vectors apart, number by number, where it compares or shuffles them.
#ifdef __AVX512F__
constexpr long LANE = 16;
#else
constexpr long LANE = 8;
#endif

using Lane = float __attribute__((vector_size(LANE * sizeof(float))));

static inline Lane lane(const float* place) {
    Lane values;
    std::memcpy(&values, place, sizeof values);
    return values;
}

static inline Lane lane(const bfloat16* place) {
    float values[LANE];
    for (long l = 0; l < LANE; l++) values[l] = widened(place[l]);
    return lane(values);
}

static inline void put(float* place, Lane values) { std::memcpy(place, &values, sizeof values); }

static inline void put(bfloat16* place, Lane values) {
    float wide[LANE];
    put(wide, values);
    for (long l = 0; l < LANE; l++) put(place[l], wide[l]);
}

#ifdef __clang__
#define PICKED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
using Index = int32_t __attribute__((vector_size(sizeof(Lane))));
#define PICKED(a, b, ...) __builtin_shuffle(a, b, Index{__VA_ARGS__})
#endif

// The sums of four lanes, at every place that LANE / 4 divides.
static inline Lane sums_of(const Lane* v) {
#ifdef __AVX512F__
#define HALVES(a, b)                                                                            \
    (PICKED(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +                     \
     PICKED(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
    const Lane first = HALVES(v[0], v[1]), second = HALVES(v[2], v[3]);
    Lane all = PICKED(first, second, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               PICKED(first, second, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    all += PICKED(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return all + PICKED(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#else
#define HALVES(a, b) (PICKED(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + PICKED(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
    const Lane first = HALVES(v[0], v[1]), second = HALVES(v[2], v[3]);
    const Lane all = PICKED(first, second, 0, 1, 4, 5, 8, 9, 12, 13) + PICKED(first, second, 2, 3, 6, 7, 10, 11, 14, 15);
    return all + PICKED(all, all, 1, 0, 3, 2, 5, 4, 7, 6);
#endif
}

static inline float sum(Lane values) {
    float total = 0;
    for (long l = 0; l < LANE; l++) total += values[l];
    return total;
}

// Four pixels of an image: a window to pool, or neighbours that have nothing to do with each other. z there as float
// [inner, 4], and y in one lane of channels.
template <bool POOL>
struct Pixels {
    long inner, channels, place[4];
    std::vector<float> z;
    Lane y[4];

    Pixels(Shape s, long inner)
        : inner(inner), channels(s.channels),
          place{0, inner, (POOL ? s.width : 2) * inner, (POOL ? s.width + 1 : 3) * inner}, z(4 * inner) {}

    template <typename T>
    void read(const T* from) {
        for (int j = 0; j < 4; j++)
            for (long k = 0; k < inner; k++) z[4 * k + j] = widened(from[place[j] + k]);
    }

    void multiply(const float* left) {
        for (int j = 0; j < 4; j++) y[j] = Lane{};
        for (long k = 0; k < inner; k++) {
            const Lane row = lane(left + k * channels);
            for (int j = 0; j < 4; j++) y[j] += row * z[4 * k + j];
        }
    }

    Lane largest(Lane a) const {
        Lane most = y[0];
        for (int j = 1; j < 4; j++) most = a * y[j] > a * most ? y[j] : most;
        return most;
    }
};

// Calls `act` with the place of each four pixels of an image in z and in the output.
template <bool POOL, typename Act>
static inline void each(Shape s, long inner, long image, Act act) {
    const long start = image * s.height * s.width;
    if (!POOL) {
        for (long pixel = start; pixel < start + s.height * s.width; pixel += 4)
            act(pixel * inner, pixel * s.channels);
        return;
    }
    for (long line = 0; line < s.height; line += 2)
        for (long column = 0; column < s.width; column += 2)
            act((start + line * s.width + column) * inner, (start + line * s.width + 2 * column) / 4 * s.channels);
}

// z - shift of LANE pixels that follow each other, a lane for each inner channel.
template <typename T>
static inline void turned(const T* z, const float* shift, long inner, Lane* values) {
    for (long k = 0; k < inner; k++) {
        float column[LANE];
        for (long l = 0; l < LANE; l++) column[l] = widened(z[l * inner + k]);
        values[k] = lane(column) - shift[k];
    }
}

// sums [chunks, inner + 1, inner]: of the products of every two channels of z - shift, and of z - shift.
template <typename T>
static void moments(Shape s, long inner, const T* z, const float* shift, float* sums) {
    const long size = s.height * s.width;
#pragma omp parallel for num_threads(s.threads)
    for (long chunk = 0; chunk < (s.images + CHUNK - 1) / CHUNK; chunk++) {
        std::vector<Lane> values(inner), totals((inner + 1) * inner);
        for (auto& total : totals) total = Lane{};
        for (long p = size * CHUNK * chunk; p < size * s.images && p < size * CHUNK * (chunk + 1); p += LANE) {
            turned(z + p * inner, shift, inner, values.data());
            for (long k = 0; k < inner; k++) {
                totals[inner * inner + k] += values[k];
                for (long i = 0; i <= k; i++) totals[k * inner + i] += values[k] * values[i];
            }
        }
        float* const place = sums + chunk * (inner + 1) * inner;
        for (long k = 0; k <= inner; k++)
            for (long i = 0; i < inner; i++)
                place[k * inner + i] = sum(totals[k < inner && i > k ? i * inner + k : k * inner + i]);
    }
}

// out = through + (z - shift) matrix + rest, where matrix is [inner, inner], symmetric, and rest [inner].
template <typename T>
static void turn(Shape s, long inner, const T* z, const float* shift, const float* matrix, const float* rest,
                 const float* through, T* out) {
    const long size = s.height * s.width;
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<Lane> values(inner);
#pragma omp for
        for (long image = 0; image < s.images; image++)
            for (long p = image * size; p < (image + 1) * size; p += LANE) {
                turned(z + p * inner, shift, inner, values.data());
                for (long k = 0; k < inner; k++) {
                    Lane sum = Lane{} + rest[k];
                    for (long i = 0; i < inner; i++) sum += values[i] * matrix[k * inner + i];
                    for (long l = 0; l < LANE; l++) {
                        const long at = (p + l) * inner + k;
                        put(out[at], through[at] + sum[l]);
                    }
                }
            }
    }
}

template <bool POOL, typename T>
static void forward(Shape s, long inner, const T* z, const float* left, const float* scale, const float* offset, T* out) {
    const Lane none{};
#pragma omp parallel num_threads(s.threads)
    {
        Pixels<POOL> pixels(s, inner);
#pragma omp for
        for (long image = 0; image < s.images; image++)
            each<POOL>(s, inner, image, [&](long in, long result) {
                pixels.read(z + in);
                for (long c = 0; c < s.channels; c += LANE) {
                    const Lane a = lane(scale + c), b = lane(offset + c);
                    pixels.multiply(left + c);
                    if (POOL) pixels.y[0] = pixels.largest(a);
                    for (int j = 0; j < (POOL ? 1 : 4); j++) {
                        const Lane value = a * pixels.y[j] + b;
                        put(out + result + j * s.channels + c, value < none ? none : value);  // NaN stays
                    }
                }
            });
    }
}

// With d the gradient g that ReLU lets through, at the first of the largest pixels of a window: dz [images, height,
// width, inner] = (L a) d, and sums [chunks, inner + 1, channels]: of z d for each inner channel, and of d.
template <bool POOL, typename T>
static void backward(Shape s, long inner, const T* z, const T* g, const float* left, const float* scaled,
                     const float* scale, const float* offset, float* dz, float* sums) {
    const Lane none{};
    const long channels = s.channels;
#pragma omp parallel num_threads(s.threads)
    {
        Pixels<POOL> pixels(s, inner);
        std::vector<Lane> d(4 * channels / LANE);
#pragma omp for
        for (long chunk = 0; chunk < (s.images + CHUNK - 1) / CHUNK; chunk++) {
            float* const total = sums + chunk * (inner + 1) * channels;
            std::memset(total, 0, (inner + 1) * channels * sizeof(float));
            const auto act = [&](long in, long result) {
                pixels.read(z + in);
                Lane* own = d.data();
                for (long c = 0; c < channels; c += LANE, own += 4) {
                    const Lane a = lane(scale + c), b = lane(offset + c);
                    pixels.multiply(left + c);
                    if (POOL) {
                        const Lane most = pixels.largest(a);
                        Lane rest = a * most + b > none ? lane(g + result + c) : none;
                        for (int j = 0; j < 4; j++) {
                            own[j] = pixels.y[j] == most ? rest : none;
                            rest = pixels.y[j] == most ? none : rest;
                        }
                    } else {
                        for (int j = 0; j < 4; j++)
                            own[j] = a * pixels.y[j] + b > none ? lane(g + result + j * channels + c) : none;
                    }
                    float* const last = total + inner * channels + c;
                    put(last, lane(last) + (own[0] + own[1]) + (own[2] + own[3]));
                }
                for (long k = 0; k < inner; k++) {
                    Lane through[4] = {};
                    own = d.data();
                    for (long c = k * channels; c < (k + 1) * channels; c += LANE, own += 4) {
                        const Lane row = lane(scaled + c);
                        Lane product = lane(total + c);
                        for (int j = 0; j < 4; j++) {
                            through[j] += row * own[j];
                            product += own[j] * pixels.z[4 * k + j];
                        }
                        put(total + c, product);
                    }
                    const Lane found = sums_of(through);
                    for (int j = 0; j < 4; j++) dz[in + pixels.place[j] + k] = found[LANE / 4 * j];
                }
            };
            for (long image = CHUNK * chunk; image < s.images && image < CHUNK * (chunk + 1); image++)
                each<POOL>(s, inner, image, act);
        }
    }
}

#define EXPORT(T, NAME)                                                                                              \
    extern "C" void thin_moments_##NAME(Shape s, long inner, const T* z, const float* shift, float* sums) {          \
        moments(s, inner, z, shift, sums);                                                                           \
    }                                                                                                                \
    extern "C" void thin_turn_##NAME(Shape s, long inner, const T* z, const float* shift, const float* matrix,       \
                                     const float* rest, const float* through, T* out) {                              \
        turn(s, inner, z, shift, matrix, rest, through, out);                                                        \
    }                                                                                                                \
    extern "C" void thin_forward_##NAME(Shape s, int pool, long inner, const T* z, const float* left, const float* a, \
                                        const float* b, T* out) {                                                    \
        pool ? forward<true>(s, inner, z, left, a, b, out) : forward<false>(s, inner, z, left, a, b, out);           \
    }                                                                                                                \
    extern "C" void thin_backward_##NAME(Shape s, int pool, long inner, const T* z, const T* g, const float* left,   \
                                         const float* scaled, const float* a, const float* b, float* dz,             \
                                         float* sums) {                                                              \
        pool ? backward<true>(s, inner, z, g, left, scaled, a, b, dz, sums)                                          \
             : backward<false>(s, inner, z, g, left, scaled, a, b, dz, sums);                                        \
    }

EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)
