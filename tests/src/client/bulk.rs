//! Bulk transfers, compared by hash.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::timeout,
};

use super::exchange;
use crate::{
    net::Namespace,
    server::{Chunks, Digest},
};

/// Time limit for all transfers together.
const LIMIT: Duration = Duration::from_secs(120);

/// Length of a SHA-256 in hexadecimal.
const DIGEST_LENGTH: usize = 64;

/// Direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Upload,
    /// From the server to the client.
    Download,
}

pub(super) fn transfer(
    namespace: &Namespace,
    sources: &Arc<[IpAddr]>,
    target: SocketAddr,
    direction: Direction,
    bytes: u64,
    connections: usize,
) -> Result<()> {
    let sources = sources.clone();
    namespace
        .block_on(async move {
            let mut transfers = JoinSet::new();
            for (seed, source) in (1..).zip(sources.iter().copied().cycle().take(connections)) {
                transfers.spawn(one(source, target, direction, bytes, seed));
            }
            let all = async {
                while let Some(ended) = transfers.join_next().await {
                    ended.context("the transfer panicked")??;
                }
                anyhow::Ok(())
            };
            timeout(LIMIT, all).await.with_context(|| format!("not within {LIMIT:?}"))?
        })
        .with_context(|| format!("{direction:?} of {connections} x {bytes} bytes, {target}"))
}

async fn one(source: IpAddr, target: SocketAddr, direction: Direction, bytes: u64, seed: u64) -> Result<()> {
    let mut stream = exchange::connect(source, target).await.context("connect")?;
    let chunks = Chunks::new(seed, bytes);
    let expected = chunks.clone().digest();
    let arrived = match direction {
        Direction::Upload => {
            stream.write_all(format!("upload {bytes}\n").as_bytes()).await?;
            chunks.send(&mut stream).await.context("send")?;
            let mut digest = vec![0; DIGEST_LENGTH];
            stream.read_exact(&mut digest).await.context("receive the hash")?;
            String::from_utf8(digest)?
        }
        Direction::Download => {
            stream.write_all(format!("download {bytes} {seed}\n").as_bytes()).await?;
            Digest::of(&mut stream, bytes).await.context("receive")?
        }
    };
    ensure!(arrived == expected, "sent bytes of hash {expected}, arrived as {arrived}");
    Ok(())
}
