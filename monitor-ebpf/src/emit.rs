//! emit: what user space has to see goes into the ring buffer, one record after the other.

use aya_ebpf::{bindings::__sk_buff, helpers};
use monitor_common::{KernelEvent, LossReason, RecordFlags, RecordHeader, Skip, limits};

use crate::maps::{EVENTS, LOSSES, RECORDS, Record};
use crate::programs::{count, opaque};

const PAYLOAD: u32 = limits::RECORD_PAYLOAD as u32;

/// Sends `wanted` bytes of the packet from offset `payload` on, in as many records as they need. `record.header` is
/// the first one's.
///
/// # Errors
/// The ring buffer took no record, or the packet's bytes could not be read.
#[inline(always)]
pub fn emit(skb: *mut __sk_buff, record: &mut Record, payload: u32, wanted: u32) -> Result<(), Skip> {
    let flags = record.header.flags;
    let (mut offset, mut left) = (payload, wanted);
    for _ in 0..limits::RECORDS_PER_SEGMENT {
        if left <= PAYLOAD {
            return send(skb, record, offset, left);
        }
        record.header.flags = record.header.flags & !(RecordFlags::FIN | RecordFlags::RST) | RecordFlags::MORE;
        send(skb, record, offset, PAYLOAD)?;
        offset += PAYLOAD;
        left -= PAYLOAD;
        record.header.sequence = record.header.sequence.wrapping_add(PAYLOAD);
        record.header.length -= PAYLOAD;
        record.header.flags = flags & !RecordFlags::LEFT_OUT_BEFORE;
    }
    Ok(())
}

/// One record: `part` bytes of the packet from `offset` on.
#[inline(always)]
fn send(skb: *mut __sk_buff, record: &mut Record, offset: u32, part: u32) -> Result<(), Skip> {
    let mut captured = 0;
    if part > 0 {
        // The mask changes nothing, but shows the verifier a range without zero. The compiler knows that it changes
        // nothing too, and would drop it if it knew where the number came from.
        let part = opaque(part as usize) as u32;
        let length = (part.wrapping_sub(1) & (PAYLOAD - 1)) + 1;
        // SAFETY: `length` is at most the size of `payload`.
        let read = unsafe {
            helpers::generated::bpf_skb_load_bytes(skb.cast(), offset, record.payload.as_mut_ptr().cast(), length)
        };
        if read != 0 {
            count(&LOSSES, LossReason::Unreadable as u32, 1);
            return Err(Skip::Truncated);
        }
        captured = length;
    }
    record.header.captured = captured;
    let size = RecordHeader::SIZE as u64 + u64::from(captured);
    // SAFETY: `scratch` has at least `size` readable bytes, the header and the payload behind it.
    let sent = unsafe {
        helpers::generated::bpf_ringbuf_output(
            core::ptr::from_ref(&RECORDS).cast_mut().cast(),
            core::ptr::from_mut(record).cast(),
            size,
            0,
        )
    };
    if sent != 0 {
        count(&LOSSES, LossReason::RingFull as u32, 1);
        return Err(Skip::RingFull);
    }
    count(&EVENTS, KernelEvent::RecordSent as u32, 1);
    count(&EVENTS, KernelEvent::ByteSent as u32, u64::from(captured));
    Ok(())
}
