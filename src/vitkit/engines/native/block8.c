// A transformer block with products of 8-bit numbers: unsigned rows times signed weights, sums in 32-bit integers, so exact. What is
// between products is as in `block.c`, attention's own products in bf16. A layer without scales is computed in bf16.
//
// Weights come in panels of 64 outputs as in `block.c`: (inputs / 4, 64, 4) of each.

#include "block.c"

#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)

typedef uint8_t u8;
typedef int8_t s8;

typedef struct {
    const void *weight;
    const float *scales;  // of an output: that of the rows times that of its weights; NULL: weights are bf16
    const float *bias;    // what the zero of the rows adds is in it
    double scale;         // of a step of the rows
    int64_t zero;
} Layer;

typedef struct {
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias;
    Layer qkv, proj, fc1, fc2;
    int64_t width, heads, hidden, after;
    double norm1_eps, norm2_eps;
} Block8;

// Four products of bytes added to each 32-bit sum, which stays in its register: of the intrinsic gcc 12 makes copies through memory.
INLINE void add_products(__m512i *sum, __m512i x, __m512i w) { __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(x), "v"(w)); }

INLINE void multiply_s8(const u8 *const *a, const s8 *b, int64_t count, int n, __m512i s[ROWS][VECTORS]) {
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < n; v++) s[i][v] = _mm512_setzero_si512();
    for (int64_t t = 0; t < count / 4; t++) {
        __m512i w[VECTORS];
        for (int v = 0; v < n; v++) w[v] = _mm512_loadu_si512(b + (t * n + v) * LANES * 4);
        for (int i = 0; i < ROWS; i++) {
            int four;
            memcpy(&four, a[i] + 4 * t, sizeof four);
            __m512i x = _mm512_set1_epi32(four);
            for (int v = 0; v < n; v++) add_products(&s[i][v], x, w[v]);
        }
    }
}

INLINE void store_steps(u8 *to, __m512 x, __m512 inverse_scale, __m512 zero) {
    __m512i whole = _mm512_cvtps_epi32(_mm512_fmadd_ps(x, inverse_scale, zero));  // to the nearest, of two the even one
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole, _mm512_setzero_si512())));
}

// How numbers are handed on to a layer: in its steps, or in bf16.
typedef struct {
    int steps;
    __m512 inverse, zero;
} Way;

INLINE Way way_to(const Layer *next) {
    int steps = next && next->scales;
    return (Way){steps, _mm512_set1_ps(steps ? (float)(1.0 / next->scale) : 0), _mm512_set1_ps(steps ? (float)next->zero : 0)};
}

INLINE void hand_on(char *row, int64_t c, __m512 x, int steps, __m512 inverse, __m512 zero) {
    if (steps) store_steps((u8 *)row + c, x, inverse, zero);
    else store_bf16((bf16 *)row + c, x);
}

enum { ADDED, STEPS, NUMBERS };

// `layer_product` of one kind: `whole` and `result` are constants.
INLINE void product_of(int whole, int result, const char *a, int64_t stride_a, int64_t first, int64_t end, const void *weight,
                       const float *scales, const float *bias, int64_t inputs, int64_t outputs, int64_t from, int64_t to, int after,
                       char *out, int64_t stride, __m512 inverse, __m512 zero, float *into) {
    for (int64_t j = from; j < to; j += PANEL) {
        int64_t n = least(PANEL, outputs - j) / LANES;
        for (int64_t start = first; start < end; start += ROWS) {
            const char *rows[ROWS];
            int64_t count = least(ROWS, end - start);
            for (int64_t i = 0; i < ROWS; i++) rows[i] = a + (start + least(i, count - 1)) * stride_a;
            __m512 y[ROWS][VECTORS];
            EACH(n, {
                __m512 b[VECTORS];
                for (int v = 0; v < n_; v++) b[v] = _mm512_loadu_ps(bias + j + v * LANES);
                if (whole) {
                    __m512i s[ROWS][VECTORS];
                    multiply_s8((const u8 *const *)rows, (const s8 *)weight + j * inputs, inputs, n_, s);
                    __m512 w[VECTORS];
                    for (int v = 0; v < n_; v++) w[v] = _mm512_loadu_ps(scales + j + v * LANES);
                    for (int i = 0; i < ROWS; i++)
                        for (int v = 0; v < n_; v++) y[i][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[i][v]), w[v], b[v]);
                } else {
                    multiply_bf16((const bf16 *const *)rows, (const bf16 *)weight + j * inputs, inputs, n_, y);
                    for (int i = 0; i < ROWS; i++)
                        for (int v = 0; v < n_; v++) y[i][v] = _mm512_add_ps(y[i][v], b[v]);
                }
                for (int i = 0; i < ROWS; i++) {
                    if (i >= count) break;
                    for (int v = 0; v < n_; v++) {
                        if (result == ADDED) {
                            float *at = into + (start + i) * outputs + j + v * LANES;
                            _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), y[i][v]));
                        } else
                            hand_on(out + (start + i) * stride, j + v * LANES, activate(y[i][v], after), result == STEPS, inverse, zero);
                    }
                }
            })
        }
    }
}

// Rows `first` to `end` of a, `stride_a` bytes apart, times outputs `from` to `to` of the layer: activated and handed on to `next` into
// `out`, rows `stride` bytes apart, or added to `into` (rows, outputs).
static void layer_product(const char *a, int64_t stride_a, int64_t first, int64_t end, const Layer *layer, int64_t inputs,
                          int64_t outputs, int64_t from, int64_t to, int after, char *out, int64_t stride, const Layer *next, float *into) {
    Way way = way_to(next);
    int result = into ? ADDED : way.steps ? STEPS : NUMBERS;
#define CALL(whole, result, after)                                                                                              \
    product_of(whole, result, a, stride_a, first, end, layer->weight, layer->scales, layer->bias, inputs, outputs, from, to, after, \
               out, stride, way.inverse, way.zero, into)
    if (layer->scales) {
        if (result == ADDED) CALL(1, ADDED, PLAIN);
        else if (result == NUMBERS) CALL(1, NUMBERS, after);
        else if (after == GELU_ERF) CALL(1, STEPS, GELU_ERF);
        else if (after == GELU_TANH) CALL(1, STEPS, GELU_TANH);
        else CALL(1, STEPS, after);
    } else {
        if (result == ADDED) CALL(0, ADDED, PLAIN);
        else if (result == NUMBERS) CALL(0, NUMBERS, after);
        else CALL(0, STEPS, after);
    }
#undef CALL
}

static void layer_norm(const float *x, char *out, int64_t first, int64_t end, int64_t width, const float *weight, const float *bias,
                       double eps, const Layer *next, float *row) {
    Way way = way_to(next);
    for (int64_t i = first; i < end; i++) {
        norm_f32(x + i * width, row, 0, 1, width, weight, bias, eps);
        for (int64_t c = 0; c < width; c += LANES)
            hand_on(out + i * width * 2, c, _mm512_loadu_ps(row + c), way.steps, way.inverse, way.zero);
    }
}

// Rows of bf16, `stride` bytes apart, in place as the layer takes them.
static void to_layer(char *a, int64_t stride, int64_t first, int64_t end, int64_t width, const Layer *next) {
    Way way = way_to(next);
    if (!way.steps) return;
    for (int64_t i = first; i < end; i++)
        for (int64_t c = 0; c < width; c += LANES)
            hand_on(a + i * stride, c, load_bf16((const bf16 *)(a + i * stride) + c), 1, way.inverse, way.zero);
}

// As `block_bf16`.
void block_s8(const Block8 *b, const float *x, float *y, int64_t images, int64_t tokens, int64_t rows, int threads, char *space) {
    int64_t D = b->width, M = b->hidden, wide = b->after == GATED ? 2 * M : M, d = D / b->heads;
    int64_t all = images * tokens, few = images * rows, padded = (tokens + LANES - 1) / LANES * LANES;
    char *normed = space, *mixed = normed + all * 2 * D, *hidden = mixed + few * 2 * D;
    bf16 *qkv = (bf16 *)(hidden + few * 2 * wide);
    char *own = (char *)(qkv + all * 3 * D);
    int64_t own_size = (((2 * padded * d + ROWS * padded) * 2 + ROWS * padded * 4 + D * 4) + 63) / 64 * 64;
    own += (64 - (uintptr_t)own % 64) % 64;
    int64_t parts = threads > 1 && images * b->heads % threads && rows > 4 * ROWS ? threads : 1;
    int whole = rows == tokens || D % PANEL;  // else only the queries that are read are computed
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int64_t me = 0, us = 1;
#ifdef _OPENMP
        me = omp_get_thread_num(), us = omp_get_num_threads();
#endif
        char *mine = own + me * own_size;
        int64_t blocks = (all + ROWS - 1) / ROWS;
        int64_t first = blocks * me / us * ROWS, end = least(blocks * (me + 1) / us * ROWS, all);
        layer_norm(x, normed, first, end, D, b->norm1_weight, b->norm1_bias, b->norm1_eps, &b->qkv, (float *)mine);
        layer_product(normed, 2 * D, first, end, &b->qkv, D, 3 * D, whole ? 0 : D, 3 * D, PLAIN, (char *)qkv, 6 * D, NULL, NULL);
#pragma omp barrier
        if (!whole) {
            for (int64_t image = me; image < images; image += us)
                layer_product(normed, 2 * D, image * tokens, image * tokens + rows, &b->qkv, D, 3 * D, 0, D, PLAIN, (char *)qkv, 6 * D,
                              NULL, NULL);
#pragma omp barrier
        }
        for (int64_t unit = me; unit < images * b->heads * parts; unit += us) {
            int64_t part = unit % parts, head = unit / parts % b->heads, image = unit / parts / b->heads;
            int64_t each = (rows + parts - 1) / parts, start = part * each;
            const bf16 *q = qkv + image * tokens * 3 * D + head * d;
            attend_bf16(q, q + D, q + 2 * D, (bf16 *)mixed + image * rows * D + head * d, start, least(start + each, rows), tokens, d,
                        3 * D, D, mine);
        }
#pragma omp barrier
        blocks = (few + ROWS - 1) / ROWS;
        first = blocks * me / us * ROWS, end = least(blocks * (me + 1) / us * ROWS, few);
        to_layer(mixed, 2 * D, first, end, D, &b->proj);
        layer_product(mixed, 2 * D, first, end, &b->proj, D, D, 0, D, PLAIN, NULL, 0, NULL, y);
        layer_norm(y, normed, first, end, D, b->norm2_weight, b->norm2_bias, b->norm2_eps, &b->fc1, (float *)mine);
        if (b->after == GATED) {
            layer_product(normed, 2 * D, first, end, &b->fc1, D, wide, 0, wide, PLAIN, hidden, 2 * wide, NULL, NULL);
            gate_bf16((bf16 *)hidden, first, end, M);
            to_layer(hidden, 2 * wide, first, end, M, &b->fc2);
        } else
            layer_product(normed, 2 * D, first, end, &b->fc1, D, wide, 0, wide, (int)b->after, hidden, 2 * wide, &b->fc2, NULL);
        layer_product(hidden, 2 * wide, first, end, &b->fc2, M, D, 0, D, PLAIN, NULL, 0, NULL, y);
    }
}

// Bytes that `block_s8` needs beside its input and output.
int64_t space_s8(const Block8 *b, int64_t images, int64_t tokens, int64_t rows, int threads) {
    int64_t D = b->width, wide = b->after == GATED ? 2 * b->hidden : b->hidden, padded = (tokens + LANES - 1) / LANES * LANES;
    int64_t own = (2 * padded * (D / b->heads) + ROWS * padded) * 2 + ROWS * padded * 4 + D * 4 + 128;
    return 2 * (images * tokens * 4 * D + images * rows * (D + wide)) + threads * own + 64;
}

#endif
