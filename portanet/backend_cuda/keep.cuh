// What products do with their sums: matmul.cu and convolve.cu.
//
// PN_SPLIT: sums are partial, `Target` is the type T that they are computed in. Else they
// become the result's type, or with an epilogue go through it: lower.py then puts in front
// PN_RESULT, the type of the result; PN_RESULTS and PN_FURTHER, the parameters in place of
// y and behind the inputs; PN_OPERANDS, their names; and pn_epilogue, which takes an element
// of the result and stores what becomes of it. Its words, from number PN_EPILOGUE on, follow
// the kernel's.
#if !defined(PN_EPILOGUE)
#define PN_RESULT PN_Y0
#define PN_RESULTS Target *__restrict__ y
#define PN_FURTHER
#endif

typedef pn_compute<PN_RESULT> T;
#if PN_SPLIT
typedef T Target;
#else
typedef PN_RESULT Target;
#endif

// PN_KEEP: element o, in row i (through the batches) and column j. PN_KEEP_SOME: N
// neighbours from there on.
#if defined(PN_EPILOGUE)
#define PN_KEEP(o, i, j, sum) \
    pn_epilogue(P, (PN_PLACE)(o), (PN_PLACE)(i), (PN_PLACE)(j), sum, PN_OPERANDS)
#define PN_KEEP_SOME(N, o, i, j, sums)            \
    _Pragma("unroll") for (int n_ = 0; n_ < N; n_++) \
        PN_KEEP((o) + n_, i, (j) + n_, (sums)[n_])
#else
#define PN_KEEP(o, i, j, sum) pn_store(y, o, sum)
template <int N> PN_DEVICE void keep_some(Target *y, const T *sums) {
    pn_pack<Target, N> made;
#pragma unroll
    for (int v = 0; v < N; v++) pn_convert(&made.at[v], sums[v]);
    *(pn_pack<Target, N> *)y = made;
}
#define PN_KEEP_SOME(N, o, i, j, sums) keep_some<N>(y + (o), sums)
#endif

#if defined(PN_STEP_combine)
// y[o] = sum over s of partial[s, o]. words: splits, outputs
PN_ENTRY(combine, 256)(PN_RESULTS, const T *__restrict__ partial PN_FURTHER, PN_P P) {
    const long long o = (long long)blockIdx.x * 256 + threadIdx.x, outputs = P[1];
    if (o >= outputs) return;
    T sum = 0;
    for (int s = 0; s < (int)P[0]; s++) sum += partial[s * outputs + o];
    PN_KEEP(o, 0, 0, sum);
}
PN_EXPORT(combine)
#endif
