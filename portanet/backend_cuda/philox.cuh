// Philox4x32-10 (Salmon, Moraes, Dror & Shaw, SC11): four words of 32 random bits.
PN_DEVICE uint4 philox(unsigned long long counter, unsigned key0, unsigned key1) {
    uint4 c = {(unsigned)counter, (unsigned)(counter >> 32), 0, 0};
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned long long p = 0xD2511F53ull * c.x, q = 0xCD9E8D57ull * c.z;
        c = uint4{(unsigned)(q >> 32) ^ c.y ^ key0, (unsigned)q,
                  (unsigned)(p >> 32) ^ c.w ^ key1, (unsigned)p};
        key0 += 0x9E3779B9u;  // the golden ratio
        key1 += 0xBB67AE85u;  // sqrt(3) - 1
    }
    return c;
}
