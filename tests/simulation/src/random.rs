//! Numbers that look random and are the same for the same seed.

/// Marsaglia's xorshift generator with 64 bits, multiplied as Vigna proposes (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of one node in the run with this seed.
    pub(crate) fn new(seed: u64, node: u64) -> Self {
        // Neighbouring seeds are spread first (the finaliser of SplitMix64); zero would stay zero.
        let mut state = seed ^ node.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((state ^ (state >> 31)).max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 1
    }

    /// From zero to one less than `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
