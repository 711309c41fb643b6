// A transformer block on processors with AVX-512: norms, products, attention and activations in one call, nothing but the block's
// tokens in and out. Two kinds from the one text below: NUMBER float, and NUMBER bf16 (products of pairs, sums in float32).
//
// Tokens, norms, softmax, activations and all sums are float32. What a row of tokens becomes depends on the order of operations
// within the row and on no other row's: not on how many there are, nor on the number of threads.
//
// Weights come in panels of 64 outputs (the last one of 16, 32 or 48): (inputs, 64) of each panel; in bf16 (inputs / 2, 64, 2).

#ifndef NUMBER  // included by itself below, once for each kind

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define ROWS 6     // rows at a time: 6 x 4 sums in registers
#define LANES 16   // float32 in a register
#define VECTORS 4  // registers of one panel
#define PANEL (VECTORS * LANES)
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define OF(name) JOIN(name, NUMBER)

typedef uint16_t bf16;
typedef float f32;
enum { PLAIN, GELU_ERF, GELU_TANH, GELU_QUICK, GATED };

typedef struct {
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias;
    const void *qkv, *proj, *fc1, *fc2;
    const float *qkv_bias, *proj_bias, *fc1_bias, *fc2_bias;
    int64_t width, heads, hidden, after;
    double norm1_eps, norm2_eps;
} Block;

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE __m512 exponential(__m512 x) {  // to about one unit in the last place; 0 below -87
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_mask_scalef_ps(_mm512_setzero_ps(), _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ), p, n);
}

INLINE __m512 inverse(__m512 x) {  // of 1 and more
    __m512 y = _mm512_rcp14_ps(x);
    return _mm512_fmadd_ps(y, _mm512_fnmadd_ps(x, y, _mm512_set1_ps(1.0f)), y);
}

INLINE __m512 sigmoid(__m512 x) {  // both exponentials are of negative numbers, so neither overflows
    __m512 small = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(x)));
    __m512 y = inverse(_mm512_add_ps(small, _mm512_set1_ps(1.0f)));
    return _mm512_mask_mul_ps(y, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), y, small);
}

// erf by Abramowitz and Stegun 7.1.26, to 1.5e-7.
INLINE __m512 gelu_erf(__m512 x) {
    __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    __m512 t = inverse(_mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), _mm512_set1_ps(1.0f)));
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
    __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(z, z))));
    // x * (1 + erf) / 2: half the tail below 0, one less half the tail above
    __m512 half = _mm512_mul_ps(tail, _mm512_set1_ps(0.5f));
    __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ);
    return _mm512_mul_ps(x, _mm512_mask_sub_ps(half, above, _mm512_set1_ps(1.0f), half));
}

INLINE __m512 activate(__m512 x, int after) {
    if (after == GELU_ERF) return gelu_erf(x);
    if (after == GELU_TANH) {
        __m512 cube = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.0713548162726f), _mm512_set1_ps(1.5957691216057f));
        return _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(x, cube)));
    }
    if (after == GELU_QUICK) return _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(x, _mm512_set1_ps(1.702f))));
    return x;
}

// One row of logits, `padded` long, to weights that are yet to be divided by the sum that is returned; beyond `tokens` zeros.
INLINE float softmax(float *row, int64_t tokens, int64_t padded) {
    __mmask16 last = (__mmask16)(0xFFFF >> (padded - tokens));
    __m512 high = _mm512_set1_ps(-INFINITY);
    for (int64_t j = 0; j < padded - LANES; j += LANES) high = _mm512_max_ps(high, _mm512_loadu_ps(row + j));
    high = _mm512_mask_max_ps(high, last, high, _mm512_loadu_ps(row + padded - LANES));
    __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(high)), sum = _mm512_setzero_ps();
    for (int64_t j = 0; j < padded; j += LANES) {
        __m512 e = exponential(_mm512_sub_ps(_mm512_loadu_ps(row + j), top));
        if (j == padded - LANES) e = _mm512_maskz_mov_ps(last, e);
        sum = _mm512_add_ps(sum, e);
        _mm512_storeu_ps(row + j, e);
    }
    return _mm512_reduce_add_ps(sum);
}

// `call` with n_ a constant, so that sums stay in registers.
#define EACH(n, call)                               \
    switch (n) {                                    \
        case 1: { enum { n_ = 1 }; call; break; }   \
        case 2: { enum { n_ = 2 }; call; break; }   \
        case 3: { enum { n_ = 3 }; call; break; }   \
        default: { enum { n_ = VECTORS }; call; }   \
    }

INLINE __m512 load_f32(const f32 *from) { return _mm512_loadu_ps(from); }
INLINE void store_f32(f32 *to, __m512 x) { _mm512_storeu_ps(to, x); }

INLINE void multiply_f32(const f32 *const *a, const f32 *b, int64_t count, int n, __m512 s[ROWS][VECTORS]) {
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < n; v++) s[i][v] = _mm512_setzero_ps();
    for (int64_t t = 0; t < count; t++) {
        __m512 w[VECTORS];
        for (int v = 0; v < n; v++) w[v] = _mm512_loadu_ps(b + (t * n + v) * LANES);
        for (int i = 0; i < ROWS; i++) {
            __m512 x = _mm512_set1_ps(a[i][t]);
            for (int v = 0; v < n; v++) s[i][v] = _mm512_fmadd_ps(x, w[v], s[i][v]);
        }
    }
}

// Keys (tokens, width) to panels of tokens: (width, 64) of each.
INLINE void turn_f32(f32 *to, const f32 *k, int64_t tokens, int64_t padded, int64_t width, int64_t stride) {
    for (int64_t j = 0; j < padded; j += PANEL) {
        int64_t wide = least(PANEL, padded - j);
        for (int64_t i = 0; i < wide; i++) {
            const f32 *row = k + least(j + i, tokens - 1) * stride;
            for (int64_t c = 0; c < width; c++) to[j * width + c * wide + i] = row[c];
        }
    }
}

// Values (tokens, width) to panels of channels: (padded, 64) of each, zeros beyond the tokens.
INLINE void keep_f32(f32 *to, const f32 *v, int64_t tokens, int64_t padded, int64_t width, int64_t stride) {
    for (int64_t c = 0; c < width; c += PANEL) {
        int64_t wide = least(PANEL, width - c);
        for (int64_t j = 0; j < padded; j++)
            if (j < tokens) memcpy(to + c * padded + j * wide, v + j * stride + c, wide * sizeof(f32));
            else memset(to + c * padded + j * wide, 0, wide * sizeof(f32));
    }
}

#ifndef PARTS  // all that is asked for are the parts above
#define NUMBER f32
#include "block.c"
#undef NUMBER
#endif

#ifdef __AVX512BF16__

INLINE __m512 load_bf16(const bf16 *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}
INLINE void store_bf16(bf16 *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

INLINE void multiply_bf16(const bf16 *const *a, const bf16 *b, int64_t count, int n, __m512 s[ROWS][VECTORS]) {
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < n; v++) s[i][v] = _mm512_setzero_ps();
    for (int64_t t = 0; t < count / 2; t++) {
        __m512i w[VECTORS];
        for (int v = 0; v < n; v++) w[v] = _mm512_loadu_si512(b + (t * n + v) * LANES * 2);
        for (int i = 0; i < ROWS; i++) {
            int pair;
            memcpy(&pair, a[i] + 2 * t, sizeof pair);
            __m512i x = _mm512_set1_epi32(pair);
            for (int v = 0; v < n; v++) s[i][v] = _mm512_dpbf16_ps(s[i][v], (__m512bh)x, (__m512bh)w[v]);
        }
    }
}

INLINE void turn_bf16(bf16 *to, const bf16 *k, int64_t tokens, int64_t padded, int64_t width, int64_t stride) {
    for (int64_t j = 0; j < padded; j += PANEL) {
        int64_t wide = least(PANEL, padded - j);
        for (int64_t i = 0; i < wide; i++) {
            const bf16 *row = k + least(j + i, tokens - 1) * stride;
            for (int64_t c = 0; c < width; c += 2) memcpy(to + j * width + c * wide + 2 * i, row + c, 2 * sizeof(bf16));
        }
    }
}

INLINE void keep_bf16(bf16 *to, const bf16 *v, int64_t tokens, int64_t padded, int64_t width, int64_t stride) {
    for (int64_t c = 0; c < width; c += LANES) {
        int64_t panel = c / PANEL * PANEL, wide = least(PANEL, width - panel);
        for (int64_t j = 0; j < padded; j += 2) {
            __m512i even = _mm512_setzero_si512(), odd = even;
            if (j < tokens) even = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(v + j * stride + c)));
            if (j + 1 < tokens) odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(v + (j + 1) * stride + c)));
            bf16 *at = to + panel * padded + j * wide + 2 * (c - panel);
            _mm512_storeu_si512(at, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
    }
}

#ifndef PARTS  // all that is asked for are the parts above
#define NUMBER bf16
#include "block.c"
#undef NUMBER
#endif

#endif

#else  // for each kind of number

// Rows `first` to `end` of a (rows, inputs) times outputs `from` to `to` of the weights, plus bias: activated into `out`, or added to
// `into`; both (rows, outputs) with `stride`.
static void OF(product)(const NUMBER *a, int64_t stride_a, int64_t first, int64_t end, const NUMBER *weight, const float *bias,
                        int64_t inputs, int64_t outputs, int64_t from, int64_t to, int after, NUMBER *out, float *into,
                        int64_t stride) {
    for (int64_t j = from; j < to; j += PANEL) {
        const NUMBER *panel = weight + j * inputs;
        int64_t n = least(PANEL, outputs - j) / LANES;
        for (int64_t start = first; start < end; start += ROWS) {
            const NUMBER *rows[ROWS];
            int64_t count = least(ROWS, end - start);
            for (int64_t i = 0; i < ROWS; i++) rows[i] = a + (start + least(i, count - 1)) * stride_a;
            __m512 s[ROWS][VECTORS];
            EACH(n, {
                OF(multiply)(rows, panel, inputs, n_, s);
                for (int i = 0; i < ROWS; i++) {
                    if (i >= count) break;
                    int64_t at = (start + i) * stride + j;
                    for (int v = 0; v < n_; v++) {
                        __m512 y = _mm512_add_ps(s[i][v], _mm512_loadu_ps(bias + j + v * LANES));
                        if (into) _mm512_storeu_ps(into + at + v * LANES, _mm512_add_ps(_mm512_loadu_ps(into + at + v * LANES), y));
                        else OF(store)(out + at + v * LANES, activate(y, after));
                    }
                }
            })
        }
    }
}

static void OF(norm)(const float *x, NUMBER *out, int64_t first, int64_t end, int64_t width, const float *weight, const float *bias,
                     double eps) {
    for (int64_t row = first; row < end; row++) {
        const float *from = x + row * width;
        __m512 sum = _mm512_setzero_ps(), square = sum;
        for (int64_t c = 0; c < width; c += LANES) sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + c));
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
        for (int64_t c = 0; c < width; c += LANES) {
            __m512 off = _mm512_sub_ps(_mm512_loadu_ps(from + c), mean);
            square = _mm512_fmadd_ps(off, off, square);
        }
        __m512 scale = _mm512_set1_ps((float)(1.0 / sqrt((double)_mm512_reduce_add_ps(square) / width + eps)));
        for (int64_t c = 0; c < width; c += LANES) {
            __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(from + c), mean), scale);
            OF(store)(out + row * width + c, _mm512_fmadd_ps(y, _mm512_loadu_ps(weight + c), _mm512_loadu_ps(bias + c)));
        }
    }
}

// Rows `first` to `end` of one head: softmax(q k^T) v. Queries are scaled already.
static void OF(attend)(const NUMBER *q, const NUMBER *k, const NUMBER *v, NUMBER *out, int64_t first, int64_t end, int64_t tokens,
                       int64_t width, int64_t stride, int64_t stride_out, char *space) {
    int64_t padded = (tokens + LANES - 1) / LANES * LANES;
    NUMBER *keys = (NUMBER *)space, *values = keys + padded * width, *weights = values + padded * width;
    float *logits = (float *)(weights + ROWS * padded);
    OF(turn)(keys, k, tokens, padded, width, stride);
    OF(keep)(values, v, tokens, padded, width, stride);
    for (int64_t start = first; start < end; start += ROWS) {
        int64_t count = least(ROWS, end - start);
        const NUMBER *from[ROWS], *mixed[ROWS];
        float share[ROWS];
        __m512 s[ROWS][VECTORS];
        for (int64_t i = 0; i < ROWS; i++) {
            from[i] = q + (start + least(i, count - 1)) * stride;
            mixed[i] = weights + least(i, count - 1) * padded;
        }
        for (int64_t j = 0; j < padded; j += PANEL) {
            int64_t n = least(PANEL, padded - j) / LANES;
            EACH(n, {
                OF(multiply)(from, keys + j * width, width, n_, s);
                for (int i = 0; i < ROWS; i++)
                    for (int v_ = 0; v_ < n_; v_++) _mm512_storeu_ps(logits + i * padded + j + v_ * LANES, s[i][v_]);
            })
        }
        for (int64_t i = 0; i < count; i++) {
            float *row = logits + i * padded;
            share[i] = 1.0f / softmax(row, tokens, padded);
            for (int64_t j = 0; j < padded; j += LANES) OF(store)(weights + i * padded + j, _mm512_loadu_ps(row + j));
        }
        for (int64_t c = 0; c < width; c += PANEL) {
            int64_t n = least(PANEL, width - c) / LANES;
            EACH(n, {
                OF(multiply)(mixed, values + c * padded, padded, n_, s);
                for (int i = 0; i < ROWS; i++) {
                    if (i >= count) break;
                    for (int v_ = 0; v_ < n_; v_++)
                        OF(store)(out + (start + i) * stride_out + c + v_ * LANES, _mm512_mul_ps(s[i][v_], _mm512_set1_ps(share[i])));
                }
            })
        }
    }
}

static void OF(gate)(NUMBER *hidden, int64_t first, int64_t end, int64_t width) {
    for (int64_t row = first; row < end; row++)
        for (int64_t c = 0; c < width; c += LANES) {
            NUMBER *at = hidden + row * 2 * width + c;
            __m512 x = OF(load)(at);
            OF(store)(at, _mm512_mul_ps(_mm512_mul_ps(x, sigmoid(x)), OF(load)(at + width)));
        }
}

// x (images, tokens, width) through a block. `rows` tokens of each image come out, added to y (images, rows, width); y is x where
// all do. `space`: see `space_f32`.
void OF(block)(const Block *b, const float *x, float *y, int64_t images, int64_t tokens, int64_t rows, int threads, char *space) {
    int64_t D = b->width, M = b->hidden, wide = b->after == GATED ? 2 * M : M, d = D / b->heads;
    int64_t all = images * tokens, few = images * rows, padded = (tokens + LANES - 1) / LANES * LANES;
    NUMBER *normed = (NUMBER *)space, *qkv = normed + all * D, *mixed = qkv + all * 3 * D, *hidden = mixed + few * D;
    char *own = (char *)(hidden + few * wide);
    int64_t own_size = ((2 * padded * d + ROWS * padded) * (int64_t)sizeof(NUMBER) + ROWS * padded * 4 + 63) / 64 * 64;
    own += (64 - (uintptr_t)own % 64) % 64;
    int64_t parts = threads > 1 && images * b->heads % threads && rows > 4 * ROWS ? threads : 1;
    int whole = rows == tokens || D % PANEL;  // else only the queries that are read are computed
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int64_t me = 0, us = 1;
#ifdef _OPENMP
        me = omp_get_thread_num(), us = omp_get_num_threads();
#endif
        int64_t blocks = (all + ROWS - 1) / ROWS;
        int64_t first = blocks * me / us * ROWS, end = least(blocks * (me + 1) / us * ROWS, all);
        OF(norm)(x, normed, first, end, D, b->norm1_weight, b->norm1_bias, b->norm1_eps);
        OF(product)(normed, D, first, end, b->qkv, b->qkv_bias, D, 3 * D, whole ? 0 : D, 3 * D, PLAIN, qkv, NULL, 3 * D);
#pragma omp barrier
        if (!whole)
            for (int64_t image = me; image < images; image += us)
                OF(product)(normed, D, image * tokens, image * tokens + rows, b->qkv, b->qkv_bias, D, 3 * D, 0, D, PLAIN, qkv, NULL, 3 * D);
        if (!whole) {
#pragma omp barrier
        }
        for (int64_t unit = me; unit < images * b->heads * parts; unit += us) {
            int64_t part = unit % parts, head = unit / parts % b->heads, image = unit / parts / b->heads;
            int64_t each = (rows + parts - 1) / parts, start = part * each;
            const NUMBER *q = qkv + image * tokens * 3 * D + head * d;
            OF(attend)(q, q + D, q + 2 * D, mixed + image * rows * D + head * d, start, least(start + each, rows), tokens, d, 3 * D, D,
                       own + me * own_size);
        }
#pragma omp barrier
        blocks = (few + ROWS - 1) / ROWS;
        first = blocks * me / us * ROWS, end = least(blocks * (me + 1) / us * ROWS, few);
        OF(product)(mixed, D, first, end, b->proj, b->proj_bias, D, D, 0, D, PLAIN, NULL, y, D);
        OF(norm)(y, normed, first, end, D, b->norm2_weight, b->norm2_bias, b->norm2_eps);
        int after = b->after == GATED ? PLAIN : (int)b->after;
        OF(product)(normed, D, first, end, b->fc1, b->fc1_bias, D, wide, 0, wide, after, hidden, NULL, wide);
        if (b->after == GATED) OF(gate)(hidden, first, end, M);
        OF(product)(hidden, wide, first, end, b->fc2, b->fc2_bias, M, D, 0, D, PLAIN, NULL, y, D);
    }
}

// Bytes that `block` needs beside its input and output.
int64_t OF(space)(const Block *b, int64_t images, int64_t tokens, int64_t rows, int threads) {
    int64_t D = b->width, wide = b->after == GATED ? 2 * b->hidden : b->hidden, padded = (tokens + LANES - 1) / LANES * LANES;
    int64_t numbers = images * tokens * 4 * D + images * rows * (D + wide);
    int64_t own = (2 * padded * (D / b->heads) + ROWS * padded) * (int64_t)sizeof(NUMBER) + ROWS * padded * 4 + 64;
    return numbers * (int64_t)sizeof(NUMBER) + threads * own + 64;
}

// Rows of numbers (rows, inputs) times weights, plus bias, added to `into` (rows, outputs).
void OF(add_product)(const NUMBER *a, const NUMBER *weight, const float *bias, float *into, int64_t rows, int64_t inputs,
                     int64_t outputs, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t start = 0; start < rows; start += 4 * ROWS)
        OF(product)(a, inputs, start, least(start + 4 * ROWS, rows), weight, bias, inputs, outputs, 0, outputs, PLAIN, NULL, into, outputs);
}

#endif
