//! The beginning of a message, kept in the pieces in which it came.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// The size from which on a piece is kept as it came. Clients put 16 KiB into a frame, unless they make use of larger ones.
const LARGE_PIECE_BYTES: usize = 8 << 10;

/// Bytes in pieces.
#[derive(Default)]
pub(super) struct Pieces(VecDeque<Piece>);

enum Piece {
    /// A piece as it came.
    Large(Bytes),
    /// Small pieces, joined.
    Small(BytesMut),
}

impl Pieces {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds bytes. A small piece is copied, since it may keep a much larger buffer of the connection in memory.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() >= LARGE_PIECE_BYTES {
            self.0.push_back(Piece::Large(bytes));
            return;
        }
        match self.0.back_mut() {
            Some(Piece::Small(joined)) => joined.extend_from_slice(&bytes),
            _ => self.0.push_back(Piece::Small(bytes[..].into())),
        }
    }

    /// All pieces in one.
    pub(super) fn join(mut self) -> Bytes {
        if self.0.len() <= 1 {
            return self.pop().unwrap_or_default();
        }
        let pieces: Vec<_> = std::iter::from_fn(|| self.pop()).collect();
        pieces.concat().into()
    }

    /// Takes the first piece.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        Some(match self.0.pop_front()? {
            Piece::Large(bytes) => bytes,
            Piece::Small(joined) => joined.freeze(),
        })
    }
}
