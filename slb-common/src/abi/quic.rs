//! QUIC connection IDs that name a server: the format of a listener's IDs, and the map from server ID to server.
//!
//! The format is the unencrypted one of QUIC-LB (draft-ietf-quic-load-balancers-19, 5.2): an octet with the config rotation
//! in its three upper bits, the server ID, and octets that the server is free to choose.

/// Most octets of a server ID.
pub const MAX_SERVER_ID_LEN: u8 = 4;
/// Greatest config rotation. The codepoint 7 says that a connection ID names no server (QUIC-LB, 3.1).
pub const MAX_CONFIG_ROTATION: u8 = 6;

const LEN_BITS: u32 = 2;

/// The format of the connection IDs of a listener's servers.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CidFormat(u8);

impl CidFormat {
    /// Server IDs of `server_id_len` octets, 1 to [`MAX_SERVER_ID_LEN`], in connection IDs with this config rotation, at
    /// most [`MAX_CONFIG_ROTATION`].
    pub const fn new(server_id_len: u8, config_rotation: u8) -> Self {
        Self(config_rotation << LEN_BITS | (server_id_len - 1) & (MAX_SERVER_ID_LEN - 1))
    }

    /// The format with this number in the maps.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    /// The number in the maps.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Octets of a server ID.
    #[inline(always)]
    pub const fn server_id_len(self) -> usize {
        (self.0 & (MAX_SERVER_ID_LEN - 1)) as usize + 1
    }

    /// The config rotation.
    #[inline(always)]
    pub const fn config_rotation(self) -> u8 {
        self.0 >> LEN_BITS
    }
}

/// Key in `QUIC_SERVERS`, whose values are handles of servers: a server table in the upper half, a server ID in the
/// lower half.
#[inline(always)]
pub const fn quic_key(lookup_table: u32, server_id: u32) -> u64 {
    (lookup_table as u64) << 32 | server_id as u64
}

const _: () = assert!(MAX_SERVER_ID_LEN == 1 << LEN_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_keeps_length_and_config_rotation() {
        for len in 1..=MAX_SERVER_ID_LEN {
            for rotation in 0..=MAX_CONFIG_ROTATION {
                let format = CidFormat::from_number(CidFormat::new(len, rotation).number());
                assert_eq!((format.server_id_len(), format.config_rotation()), (len.into(), rotation));
            }
        }
    }

    #[test]
    fn keys_differ_by_table_and_server_id() {
        assert_ne!(quic_key(1, 2), quic_key(2, 1));
        assert_ne!(quic_key(0, u32::MAX), quic_key(1, u32::MAX));
    }
}
