use super::*;

/// Also if bytes are ready, or come from a driver that has not seen yet that it was aborted.
#[tokio::test]
async fn after_a_cancellation_comes_nothing_more() {
    let (sender, plain) = mpsc::channel(1);
    sender.send(Slice { bytes: Bytes::from_static(b"ready"), lost: Vec::new() }).await.unwrap();
    let (driver, cancel) = (Some(Task(tokio::spawn(std::future::pending()))), CancellationToken::new());
    let mut reader = PlainReader { plain, driver, cancel: cancel.clone(), lost: Vec::new() };
    cancel.cancel();
    assert!(matches!(reader.next().await, Err(Error::Cancelled)));
    assert!(sender.is_closed() && reader.next().await.unwrap().is_none());
}

#[test]
fn memory_is_bounded_by_budget_and_concurrency() {
    const MIB: u64 = 1 << 20;
    for (budget, concurrency, requests) in
        [(16, 8, 1), (40, 8, 1), (64, 8, 2), (256, 8, 8), (256, 3, 3), (4096, 64, 8), (256, 0, 1)]
    {
        let (found, bytes) = plan_memory(budget * MIB, concurrency);
        assert_eq!(found, requests, "{budget} MiB, {concurrency}");
        assert!(requests == 1 || bytes <= budget * MIB / 4 * 3);
    }
}
