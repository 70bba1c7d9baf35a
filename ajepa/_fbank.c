/* The passes over memory around the Fourier transform of a log-mel spectrogram (see fbank_kernel.py).
 *
 * Plain C, called through ctypes: the library knows neither torch nor, but for an empty module that lets
 * setuptools treat it as an extension, Python.
 *
 * Compile with -ffp-contract=off: a fused multiply-add would round otherwise than torch's separate steps. With
 * -fno-trapping-math the last loop takes a sixth of the time.
 */

#include <Python.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) /* Clang defines it too */
#error "needs the vector types of GCC or Clang; the package works without this library"
#endif

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* One version for each width of vectors, chosen when the library is loaded: that needs the GNU loader. */
#if defined(__x86_64__) && defined(__GLIBC__) && \
    ((defined(__clang__) && __clang_major__ >= 14) || (!defined(__clang__) && __GNUC__ >= 9))
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#define PREEMPHASIS 0.97f

/* Four mel bands. Wider vectors are faster where the processor has them (0.07 ms for 1,024 frames against 0.10)
 * and many times slower where it has not. */
#define BANDS 4
typedef float bands __attribute__((vector_size(4 * BANDS), aligned(4), may_alias));
/* Frames whose sums advance together: they share the loads of the weights, and fill the time of an addition. */
#define TOGETHER 4

/* Frames of a waveform, made ready for the Fourier transform: row[j] = (y[j] - 0.97 y[j-1]) window[j-1] for
 * 1 <= j < window_size, and zero elsewhere, where y is the frame less its mean. The roundings are those of torch
 * doing one step after the other.
 *
 *   waveform  [clips, samples]   means  [clips, clip_frames]   window  [window_size - 1], second sample on
 *   rows      [count, row_size], count = clips x clip_frames
 */
EXPORT FOR_EACH_PROCESSOR void ajepa_cut_frames(
    const float *__restrict waveform, const float *__restrict means, const float *__restrict window,
    float *__restrict rows, int64_t samples, int64_t clip_frames, int64_t window_size, int64_t hop,
    int64_t row_size, int64_t count)
{
    for (int64_t r = 0; r < count; r++) {
        const float *frame = waveform + (r / clip_frames) * samples + (r % clip_frames) * hop;
        const float mean = means[r];
        float *row = rows + r * row_size;
        row[0] = 0;
        for (int64_t j = 1; j < window_size; j++) {
            const float before = PREEMPHASIS * (frame[j - 1] - mean);
            row[j] = ((frame[j] - mean) - before) * window[j - 1];
        }
        for (int64_t j = window_size; j < row_size; j++)
            row[j] = 0;
    }
}

/* The natural logarithm of a finite normal number, to 6e-8 + half a unit in the last place: the polynomial is
 * that of logf in S. L. Moshier's Cephes library. Infinity and NaN stay what they are. */
static inline __attribute__((always_inline)) float logarithm(float x)
{
    const float half_root = 0.707106781186547524f;
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* x = 2^exponent m, m in sqrt(1/2)..sqrt(2). */
    int32_t half_root_bits;
    memcpy(&half_root_bits, &half_root, sizeof half_root_bits);
    const int32_t shift = (bits - half_root_bits) & (int32_t)0xff800000;
    const int32_t mantissa_bits = bits - shift;
    float mantissa;
    memcpy(&mantissa, &mantissa_bits, sizeof mantissa);
    const float exponent = (float)(shift >> 23);
    const float f = mantissa - 1.0f, f2 = f * f;
    float y = 7.0376836292e-2f;
    y = y * f - 1.1514610310e-1f;
    y = y * f + 1.1676998740e-1f;
    y = y * f - 1.2420140846e-1f;
    y = y * f + 1.4249322787e-1f;
    y = y * f - 1.6668057665e-1f;
    y = y * f + 2.0000714765e-1f;
    y = y * f - 2.4999993993e-1f;
    y = y * f + 3.3333331174e-1f;
    y = y * f * f2 - 0.5f * f2 - 2.12194440e-4f * exponent;
    /* ln 2 = 0.693359375 - 2.12194440e-4, and the product with the first part is exact. */
    const float log = f + y + 0.693359375f * exponent;
    return x - x == 0.0f ? log : x;
}

/* Logarithms of mel energies, normalised: (log(max(energy, floor)) - mean) / scale.
 *
 *   spectrum  [rows, bins, 2]
 *   starts, counts  [ceil(mels / BANDS)]: the bins that a group of neighbouring filters uses
 *   weights   [sum of counts, BANDS], the groups one after the other; zero beyond the last filter
 *   power     [TOGETHER, bins]: zeros at first; scratch
 *   log_mel   [rows, mels]
 */
EXPORT FOR_EACH_PROCESSOR void ajepa_log_mel(
    const float *__restrict spectrum, const int32_t *__restrict starts, const int32_t *__restrict counts,
    const float *__restrict weights, float *__restrict power, float *__restrict log_mel, float floor, float mean,
    float scale, int64_t bins, int64_t mels, int64_t rows)
{
    for (int64_t r = 0; r < rows; r += TOGETHER) {
        const int together = rows - r < TOGETHER ? (int)(rows - r) : TOGETHER;
        for (int i = 0; i < together; i++) {
            const float *x = spectrum + (r + i) * 2 * bins;
            float *p = power + i * bins;
            for (int64_t k = 0; k < bins; k++)
                p[k] = x[2 * k] * x[2 * k] + x[2 * k + 1] * x[2 * k + 1];
        }
        const float *weight = weights;
        for (int64_t m = 0; m < mels; m += BANDS) {
            const float *p = power + starts[m / BANDS];
            const int32_t count = counts[m / BANDS];
            bands sums[TOGETHER] = {{0}};
            for (int32_t k = 0; k < count; k++, weight += BANDS)
                for (int i = 0; i < TOGETHER; i++) /* all, also at the end: a fixed number stays in registers */
                    sums[i] += *(const bands *)weight * p[i * bins + k];
            for (int i = 0; i < together; i++) {
                float *out = log_mel + (r + i) * mels + m;
                if (m + BANDS <= mels)
                    *(bands *)out = sums[i];
                else
                    memcpy(out, &sums[i], (mels - m) * sizeof(float));
            }
        }
        float *out = log_mel + r * mels;
        for (int64_t m = 0; m < together * mels; m++)
            out[m] = (logarithm(out[m] < floor ? floor : out[m]) - mean) / scale;
    }
}

/* Raise it, here and in fbank_kernel.py, with every change of a signature, of BANDS or of TOGETHER: an editable
 * install keeps the library of an older checkout until it is installed again. */
EXPORT int64_t ajepa_fbank_version(void) { return 2; }

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_fbank", .m_size = 0};

PyMODINIT_FUNC PyInit__fbank(void) { return PyModuleDef_Init(&definition); }
