//! Http2ProtocolOptions, of listeners and of clusters (contract sections 13 and 22).

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::compile::Context;
use crate::fault::{Found, Problem};
use crate::snapshot::{Http2Keepalive, Http2Options};
use crate::view::View;

/// The field `http2_protocol_options` of `holder`. One header field may be as long as the whole head,
/// `headers_kb`, and no longer.
pub(crate) fn options(
    holder: &View<'_>,
    headers_kb: u32,
    context: &Context<'_>,
) -> Result<Http2Options, Found> {
    let mut options = Http2Options::default();
    let Some(view) = holder.message("http2_protocol_options") else { return Ok(options) };
    let set = |field: &str, allowed: RangeInclusive<u32>, option: &mut u32| {
        match view.wrapped_u32(field) {
            Some(value) if !allowed.contains(&value) => {
                let text = format!("must be from {} to {}", allowed.start(), allowed.end());
                return Err(view.invalid(field, text));
            }
            Some(value) => *option = value,
            None => {}
        }
        Ok(())
    };
    set("hpack_table_size", 0..=u32::MAX, &mut options.hpack_table_size)?;
    set("max_concurrent_streams", 1..=BITS_31, &mut options.max_concurrent_streams)?;
    let windows = WINDOW_MIN..=BITS_31;
    set("initial_stream_window_size", windows.clone(), &mut options.initial_stream_window_size)?;
    set("initial_connection_window_size", windows, &mut options.initial_connection_window_size)?;
    set("max_outbound_frames", 1..=u32::MAX, &mut options.max_outbound_frames)?;
    set("max_outbound_control_frames", 1..=u32::MAX, &mut options.max_outbound_control_frames)?;
    set(
        "max_consecutive_inbound_frames_with_empty_payload",
        0..=u32::MAX,
        &mut options.max_consecutive_inbound_frames_with_empty_payload,
    )?;
    set(
        "max_inbound_priority_frames_per_stream",
        0..=u32::MAX,
        &mut options.max_inbound_priority_frames_per_stream,
    )?;
    set(
        "max_inbound_window_update_frames_per_data_frame_sent",
        1..=u32::MAX,
        &mut options.max_inbound_window_update_frames_per_data_frame_sent,
    )?;
    let mut field_kb = options.max_header_field_bytes / 1024;
    set("max_header_field_size_kb", FIELD_KB, &mut field_kb)?;
    if view.has("max_header_field_size_kb") && field_kb > headers_kb {
        let text = format!("must not be above the {headers_kb} kB of all headers together");
        return Err(view.invalid("max_header_field_size_kb", text));
    }
    options.max_header_field_bytes = field_kb * 1024;
    options.stream_reset_burst =
        view.wrapped_u64("stream_reset_burst").unwrap_or(options.stream_reset_burst);
    options.stream_reset_rate =
        view.wrapped_u64("stream_reset_rate").unwrap_or(options.stream_reset_rate);
    options.allow_connect = view.flag("allow_connect");
    options.huffman = view.wrapped_flag("enable_huffman_encoding").unwrap_or(true);
    // The deprecated field could only ever switch it on.
    let deprecated = view.flag("stream_error_on_invalid_http_messaging").then_some(true);
    options.stream_error_on_invalid_http_message =
        view.wrapped_flag("override_stream_error_on_invalid_http_message").or(deprecated);
    match view.wrapped_flag("disallow_obs_text") {
        Some(true) => return Err(Found::new(view.at("disallow_obs_text"), Problem::NotSupported)),
        Some(false) => context.notes.ignore(view.at("disallow_obs_text"), "it is what we do"),
        None => {}
    }
    options.keepalive = keepalive(&view)?;
    Ok(options)
}

fn keepalive(view: &View<'_>) -> Result<Option<Http2Keepalive>, Found> {
    let Some(view) = view.message("connection_keepalive") else { return Ok(None) };
    let duration = |field: &str| match view.duration(field)? {
        Some(duration) if duration < KEEPALIVE_MIN => {
            Err(view.invalid(field, "must be at least 1 ms"))
        }
        duration => Ok(duration),
    };
    Ok(Some(Http2Keepalive {
        interval: duration("interval")?,
        timeout: duration("timeout")?.ok_or_else(|| view.required("timeout"))?,
        interval_jitter_percent: view.percent("interval_jitter")?.unwrap_or(JITTER_PERCENT),
        connection_idle_interval: duration("connection_idle_interval")?,
    }))
}

/// RFC 9113 section 6.5.2.
const BITS_31: u32 = (1 << 31) - 1;
/// The protocol's own initial window; Envoy only takes larger ones.
const WINDOW_MIN: u32 = 65_535;
/// Envoy's bounds and defaults.
const FIELD_KB: RangeInclusive<u32> = 64..=256;
const KEEPALIVE_MIN: Duration = Duration::from_millis(1);
const JITTER_PERCENT: f64 = 15.0;
