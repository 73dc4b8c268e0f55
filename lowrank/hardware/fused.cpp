// Batch normalisation, 2x2 max pool (or none) and ReLU at once: two passes over the memory forward, two backward.
//
// x is [images, height, width, channels] in bfloat16 or float32. With a channel's scale a and offset b the output is
// max(0, a x + b) at the pixel of a window where a x is largest. Of the way forward only x is kept: it says again which
// pixel that was and whether ReLU let it through. Sums are taken image by image, so that no result depends on the
// number of threads.

#include "kernels.h"

// The windows of an image, of 1 or 4 pixels. Windows of one pixel are taken several at a time, as one row of `lane`
// numbers: sums over few channels would wait for each other.
template <int PIXELS>
struct Windows {
    long channels, lane, lines, columns, size, pixel[4];

    Windows(Shape s)
        : channels(s.channels), lane(channels), lines(s.height / 2), columns(s.width / 2),
          size(s.height * s.width * channels), pixel{0, channels, s.width * channels, (s.width + 1) * channels} {
        if (PIXELS == 1) {
            while (size % (2 * lane) == 0 && 2 * lane <= 256) lane *= 2;
            lines = 1, columns = size / lane;
        }
    }

    // Calls `act` with the place of each window in the input and in the output.
    template <typename Act>
    void each(long image, Act act) const {
        for (long line = 0; line < lines; line++)
            for (long column = 0; column < columns; column++) {
                const long in = PIXELS == 1 ? column * lane : 2 * line * pixel[2] + 2 * column * lane;
                act(image * size + in, ((image * lines + line) * columns + column) * lane);
            }
    }

    Row tiled(const float* values) const {
        Row row(lane);
        for (long k = 0; k < lane; k++) row[k] = values[k % channels];
        return row;
    }

    // Two rows of sums into [2, channels].
    void fold(const Row& first, const Row& second, float* sums) const {
        std::memset(sums, 0, 2 * channels * sizeof(float));
        for (long k = 0; k < lane; k++) sums[k % channels] += first[k], sums[channels + k % channels] += second[k];
    }
};

template <int PIXELS, typename T>
static inline float largest(const T* x, const long* pixel, float a) {
    float most = widened(x[0]);
    for (int j = 1; j < PIXELS; j++) {
        const float value = widened(x[pixel[j]]);
        most = a * value > a * most ? value : most;
    }
    return most;
}

// sums [images, 2, channels]: of x - shift and of its square.
template <typename T>
static void moments(Shape s, const T* x, const float* shift, float* sums) {
    const Windows<1> windows(s);
    const Row shifts = windows.tiled(shift);
#pragma omp parallel for num_threads(s.threads)
    for (long image = 0; image < s.images; image++) {
        Row first(windows.lane), second(windows.lane);
        float *f = first.data(), *q = second.data();
        windows.each(image, [=, lane = windows.lane, m = shifts.data()](long in, long) {
#pragma omp simd
            for (long k = 0; k < lane; k++) {
                const float value = widened(x[in + k]) - m[k];
                f[k] += value;
                q[k] += value * value;
            }
        });
        windows.fold(first, second, sums + 2 * image * s.channels);
    }
}

template <int PIXELS, typename T>
static void forward(Shape s, const T* x, const float* scale, const float* offset, T* y) {
    const Windows<PIXELS> windows(s);
    const Row scales = windows.tiled(scale), offsets = windows.tiled(offset);
#pragma omp parallel for num_threads(s.threads)
    for (long image = 0; image < s.images; image++)
        windows.each(image, [=, w = windows, a = scales.data(), b = offsets.data()](long in, long out) {
#pragma omp simd
            for (long k = 0; k < w.lane; k++) {
                const float value = a[k] * largest<PIXELS>(x + in + k, w.pixel, a[k]) + b[k];
                put(y[out + k], value < 0 ? 0 : value);  // NaN stays
            }
        });
}

// sums [images, 2, channels]: of the gradient g that ReLU lets through, and of it times x - mean.
template <int PIXELS, typename T>
static void reduce(Shape s, const T* x, const T* g, const float* scale, const float* offset, const float* mean,
                   float* sums) {
    const Windows<PIXELS> windows(s);
    const Row scales = windows.tiled(scale), offsets = windows.tiled(offset), means = windows.tiled(mean);
#pragma omp parallel for num_threads(s.threads)
    for (long image = 0; image < s.images; image++) {
        Row first(windows.lane), second(windows.lane);
        float *f = first.data(), *q = second.data();
        windows.each(image, [=, w = windows, a = scales.data(), b = offsets.data(), m = means.data()](long in,
                                                                                                      long out) {
#pragma omp simd
            for (long k = 0; k < w.lane; k++) {
                const float value = largest<PIXELS>(x + in + k, w.pixel, a[k]);
                const float gradient = widened(g[out + k]);  // read always: a read that may not be is not vectorised
                const float through = a[k] * value + b[k] > 0 ? gradient : 0;
                f[k] += through;
                q[k] += through * (value - m[k]);
            }
        });
        windows.fold(first, second, sums + 2 * image * s.channels);
    }
}

// dx = p x + q everywhere, and + a g at the first of the largest pixels of a window where ReLU lets g through.
template <int PIXELS, typename T>
static void backward(Shape s, const T* x, const T* g, const float* scale, const float* offset, const float* slope,
                     const float* rest, T* dx) {
    const Windows<PIXELS> windows(s);
    const Row scales = windows.tiled(scale), offsets = windows.tiled(offset);
    const Row slopes = windows.tiled(slope), rests = windows.tiled(rest);
#pragma omp parallel for num_threads(s.threads)
    for (long image = 0; image < s.images; image++)
        windows.each(image, [=, w = windows, a = scales.data(), b = offsets.data(), p = slopes.data(),
                             q = rests.data()](long in, long out) {
#pragma omp simd
            for (long k = 0; k < w.lane; k++) {
                const float most = largest<PIXELS>(x + in + k, w.pixel, a[k]);
                const float gradient = a[k] * widened(g[out + k]);
                float through = a[k] * most + b[k] > 0 ? gradient : 0;
                for (int j = 0; j < PIXELS; j++) {
                    const float value = widened(x[in + w.pixel[j] + k]);
                    const float own = value == most ? through : 0;
                    through -= own;
                    put(dx[in + w.pixel[j] + k], own + p[k] * value + q[k]);
                }
            }
        });
}

#define EXPORT(T, NAME)                                                                                              \
    extern "C" void moments_##NAME(Shape s, const T* x, const float* shift, float* sums) {                           \
        moments(s, x, shift, sums);                                                                                  \
    }                                                                                                                \
    extern "C" void forward_##NAME(Shape s, int pool, const T* x, const float* a, const float* b, T* y) {            \
        pool ? forward<4>(s, x, a, b, y) : forward<1>(s, x, a, b, y);                                                \
    }                                                                                                                \
    extern "C" void reduce_##NAME(Shape s, int pool, const T* x, const T* g, const float* a, const float* b,         \
                                  const float* mean, float* sums) {                                                  \
        pool ? reduce<4>(s, x, g, a, b, mean, sums) : reduce<1>(s, x, g, a, b, mean, sums);                          \
    }                                                                                                                \
    extern "C" void backward_##NAME(Shape s, int pool, const T* x, const T* g, const float* a, const float* b,       \
                                    const float* p, const float* q, T* dx) {                                         \
        pool ? backward<4>(s, x, g, a, b, p, q, dx) : backward<1>(s, x, g, a, b, p, q, dx);                          \
    }

EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)
