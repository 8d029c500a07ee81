//! SETTINGS (RFC 9113 section 6.5): what the peer asks of us, and what we announce.
//!
//! Values that may not be are refused when they are read, so a [`PeerSettings`] can be used as it is.
//! Unknown settings are ignored, as they must be.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::config::{Config, Role};
use super::error::{ConnectionCause, ConnectionError};
use super::flow::{WINDOW_INITIAL, WINDOW_MAX};
use super::frame::{self, kind, u32_at};

/// What the peer has set, or the initial values where it has not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerSettings {
    /// Bytes of dynamic table that our encoder may use.
    pub header_table_size: u32,
    /// Streams that we may have open.
    pub max_concurrent_streams: u32,
    /// The window of a stream when it starts.
    pub initial_window: u32,
    /// The largest frame that we may send.
    pub max_frame_size: u32,
    /// The largest field section that it will accept; advice only.
    pub max_header_list_size: u32,
    /// Extended CONNECT may be used (RFC 8441).
    pub enable_connect_protocol: bool,
}

impl Default for PeerSettings {
    /// The initial values of RFC 9113 section 6.5.2. Streams are unlimited there; until the peer says
    /// otherwise, this is the number that it is recommended not to go below.
    fn default() -> Self {
        Self {
            header_table_size: 4096,
            max_concurrent_streams: 100,
            initial_window: WINDOW_INITIAL,
            max_frame_size: FRAME_SIZE_MIN,
            max_header_list_size: u32::MAX,
            enable_connect_protocol: false,
        }
    }
}

impl PeerSettings {
    /// Applies one setting; `role` is ours.
    pub(super) fn apply(&mut self, role: Role, setting: Setting) -> Result<(), ConnectionCause> {
        let Setting { id, value } = setting;
        match id {
            id::HEADER_TABLE_SIZE => self.header_table_size = value,
            // We never push, so it changes nothing, but it must be valid. A server may only say 0.
            id::ENABLE_PUSH => match (value, role) {
                (0, _) | (1, Role::Server) => {}
                _ => return Err(ConnectionCause::SettingEnablePush),
            },
            id::MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = value,
            id::INITIAL_WINDOW_SIZE if value > WINDOW_MAX => {
                return Err(ConnectionCause::SettingInitialWindow);
            }
            id::INITIAL_WINDOW_SIZE => self.initial_window = value,
            id::MAX_FRAME_SIZE if !(FRAME_SIZE_MIN..=FRAME_SIZE_MAX).contains(&value) => {
                return Err(ConnectionCause::SettingMaxFrameSize);
            }
            id::MAX_FRAME_SIZE => self.max_frame_size = value,
            id::MAX_HEADER_LIST_SIZE => self.max_header_list_size = value,
            id::ENABLE_CONNECT_PROTOCOL => match value {
                0 if !self.enable_connect_protocol => {}
                1 => self.enable_connect_protocol = true,
                _ => return Err(ConnectionCause::SettingConnectProtocol),
            },
            _ => {}
        }
        Ok(())
    }
}

/// One setting as it is on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Setting {
    pub(super) id: u16,
    pub(super) value: u32,
}

/// The settings in a payload, whose length must be a multiple of [`SETTING_LEN`].
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = Setting> {
    payload
        .chunks_exact(SETTING_LEN)
        .map(|six| Setting { id: u16::from_be_bytes([six[0], six[1]]), value: u32_at(&six[2..]) })
}

/// Bytes of one setting.
pub(super) const SETTING_LEN: usize = 6;

/// The most settings in one frame. There are a dozen to know, and each may be there twice; more has no
/// use but to keep us busy.
pub(super) const SETTINGS_PER_FRAME_MAX: usize = 64;

/// Writes the SETTINGS frame that a connection starts with: what differs from the initial values.
pub(super) fn announce(role: Role, config: &Config, out: &mut Vec<u8>) {
    let initial = PeerSettings::default();
    let mut payload = [0; SETTING_LEN * 8];
    let mut len = 0;
    let mut put = |id: u16, value: u32, initial: Option<u32>| {
        if Some(value) != initial {
            payload[len..len + 2].copy_from_slice(&id.to_be_bytes());
            payload[len + 2..len + SETTING_LEN].copy_from_slice(&value.to_be_bytes());
            len += SETTING_LEN;
        }
    };
    put(id::HEADER_TABLE_SIZE, config.hpack_table_size, Some(initial.header_table_size));
    match role {
        Role::Client => put(id::ENABLE_PUSH, 0, None),
        Role::Server => put(id::MAX_CONCURRENT_STREAMS, config.max_concurrent_streams, None),
    }
    put(id::INITIAL_WINDOW_SIZE, config.initial_stream_window, Some(initial.initial_window));
    put(id::MAX_FRAME_SIZE, config.max_frame_size, Some(initial.max_frame_size));
    let list_bytes_max = u32::try_from(config.list.bytes_max).unwrap_or(u32::MAX);
    put(id::MAX_HEADER_LIST_SIZE, list_bytes_max, Some(initial.max_header_list_size));
    if role == Role::Server && config.enable_connect_protocol {
        put(id::ENABLE_CONNECT_PROTOCOL, 1, None);
    }
    frame::put(out, kind::SETTINGS, 0, 0, &payload[..len]);
}

/// The settings of a client that asks for HTTP/2 by Upgrade (RFC 7540 section 3.2.1), checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpgradeSettings {
    pub(super) settings: PeerSettings,
}

impl UpgradeSettings {
    /// Reads the value of an HTTP2-Settings field: the payload of a SETTINGS frame in base64url
    /// without padding. Do so before 101 is sent, so that a request whose settings can't be read goes
    /// on in HTTP/1.1.
    ///
    /// # Errors
    ///
    /// [`ConnectionCause::SettingsUpgrade`] for text that isn't base64url or not a whole number of
    /// settings, and what a SETTINGS frame with the same payload would end a connection with.
    pub fn parse(field: &[u8]) -> Result<Self, ConnectionError> {
        let mut payload = [0; SETTING_LEN * SETTINGS_PER_FRAME_MAX];
        let len = URL_SAFE_NO_PAD
            .decode_slice(field, &mut payload)
            .ok()
            .filter(|len| len.is_multiple_of(SETTING_LEN))
            .ok_or(ConnectionCause::SettingsUpgrade)?;
        let mut upgrade = Self { settings: PeerSettings::default() };
        for setting in settings(&payload[..len]) {
            upgrade.settings.apply(Role::Server, setting)?;
        }
        Ok(upgrade)
    }
}

/// The limits of SETTINGS_MAX_FRAME_SIZE.
pub(super) const FRAME_SIZE_MIN: u32 = 1 << 14;
pub(super) const FRAME_SIZE_MAX: u32 = (1 << 24) - 1;

/// Setting identifiers (RFC 9113 section 6.5.2, RFC 8441 section 3).
pub(super) mod id {
    pub(in super::super) const HEADER_TABLE_SIZE: u16 = 0x1;
    pub(in super::super) const ENABLE_PUSH: u16 = 0x2;
    pub(in super::super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(in super::super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(in super::super) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(in super::super) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    pub(in super::super) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(role: Role, id: u16, value: u32) -> Result<PeerSettings, ConnectionCause> {
        let mut settings = PeerSettings::default();
        settings.apply(role, Setting { id, value }).map(|()| settings)
    }

    #[test]
    fn values_are_checked_at_both_ends() {
        for (role, id, value, expected) in [
            (Role::Server, id::ENABLE_PUSH, 0, None),
            (Role::Server, id::ENABLE_PUSH, 1, None),
            (Role::Server, id::ENABLE_PUSH, 2, Some(ConnectionCause::SettingEnablePush)),
            (Role::Client, id::ENABLE_PUSH, 0, None),
            (Role::Client, id::ENABLE_PUSH, 1, Some(ConnectionCause::SettingEnablePush)),
            (Role::Server, id::INITIAL_WINDOW_SIZE, 0x7fff_ffff, None),
            (
                Role::Server,
                id::INITIAL_WINDOW_SIZE,
                0x8000_0000,
                Some(ConnectionCause::SettingInitialWindow),
            ),
            (Role::Server, id::MAX_FRAME_SIZE, 16_383, Some(ConnectionCause::SettingMaxFrameSize)),
            (Role::Server, id::MAX_FRAME_SIZE, 16_384, None),
            (Role::Server, id::MAX_FRAME_SIZE, 0xff_ffff, None),
            (
                Role::Server,
                id::MAX_FRAME_SIZE,
                0x100_0000,
                Some(ConnectionCause::SettingMaxFrameSize),
            ),
            (Role::Client, id::ENABLE_CONNECT_PROTOCOL, 0, None),
            (Role::Client, id::ENABLE_CONNECT_PROTOCOL, 1, None),
            (
                Role::Client,
                id::ENABLE_CONNECT_PROTOCOL,
                2,
                Some(ConnectionCause::SettingConnectProtocol),
            ),
            (Role::Client, 0xffff, u32::MAX, None),
        ] {
            assert_eq!(apply(role, id, value).err(), expected, "{role:?} {id:#x} {value:#x}");
        }
    }

    #[test]
    fn extended_connect_is_not_taken_back() {
        let mut settings = apply(Role::Client, id::ENABLE_CONNECT_PROTOCOL, 1).unwrap();
        let off = Setting { id: id::ENABLE_CONNECT_PROTOCOL, value: 0 };
        let taken_back = settings.apply(Role::Client, off);
        assert_eq!(taken_back, Err(ConnectionCause::SettingConnectProtocol));
    }

    #[test]
    fn what_is_announced_can_be_read_again() {
        let config = Config {
            hpack_table_size: 0,
            max_concurrent_streams: 7,
            initial_stream_window: 70_000,
            max_frame_size: 20_000,
            enable_connect_protocol: true,
            ..Config::default()
        };
        let mut out = Vec::new();
        announce(Role::Server, &config, &mut out);
        let mut seen = PeerSettings::default();
        for setting in settings(&out[frame::HEAD_LEN..]) {
            seen.apply(Role::Client, setting).unwrap();
        }
        assert_eq!(
            seen,
            PeerSettings {
                header_table_size: 0,
                max_concurrent_streams: 7,
                initial_window: 70_000,
                max_frame_size: 20_000,
                max_header_list_size: 60 * 1024,
                enable_connect_protocol: true,
            }
        );
    }

    #[test]
    fn upgrade_settings_are_base64url_of_whole_settings() {
        let parse = |text: &[u8]| UpgradeSettings::parse(text).map_err(|error| error.cause);
        // What curl sends: 100 streams, a window of 32 MiB, no push.
        let curl = parse(b"AAMAAABkAAQCAAAAAAIAAAAA").unwrap();
        assert_eq!(curl.settings.max_concurrent_streams, 100);
        assert_eq!(curl.settings.initial_window, 32 << 20);
        assert_eq!(parse(b"").unwrap().settings, PeerSettings::default());
        for text in ["AAMAAABkAA", "AAMAAABk=", "AAMA AABk", "AAMAAAB+", "A", "AAMAAABkB"] {
            assert_eq!(parse(text.as_bytes()), Err(ConnectionCause::SettingsUpgrade), "{text}");
        }
        assert_eq!(parse(b"AAT_____"), Err(ConnectionCause::SettingInitialWindow));
        assert_eq!(parse(&[b'A'; 513]), Err(ConnectionCause::SettingsUpgrade), "one too many");
    }
}
