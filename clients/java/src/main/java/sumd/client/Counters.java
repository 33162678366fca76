package sumd.client;

import io.grpc.Channel;
import io.grpc.StatusRuntimeException;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.UUID;
import sumd.sum.v1.BatchGetCountersRequest;
import sumd.sum.v1.Counter;
import sumd.sum.v1.CounterServiceGrpc;
import sumd.sum.v1.CounterServiceGrpc.CounterServiceBlockingStub;
import sumd.sum.v1.IncrementCounterRequest;
import sumd.sum.v1.IncrementCounterResponse;
import sumd.sum.v1.WatchCountersRequest;
import sumd.sum.v1.WatchCountersResponse;

/** Counters: a call each for inc and get, and for watch a stream that resumes. */
final class Counters {

  private Counters() {}

  /**
   * All attempts of the service config have the same request id. If they fail with the outcome
   * UNKNOWN, or without an outcome, the same id may be sent again to find out.
   */
  static void increment(Channel channel, String counter, long delta, String requestId) {
    IncrementCounterResponse answer =
        CounterServiceGrpc.newBlockingStub(channel)
            .withDeadlineAfter(SumdClient.DEADLINE)
            .incrementCounter(
                IncrementCounterRequest.newBuilder()
                    .setCounter(counter)
                    .setDelta(delta)
                    .setRequestId(requestId)
                    .build());
    System.out.printf(
        "%d applied=%d revision=%d replayed=%b%n",
        answer.getValue(), answer.getApplied(), answer.getRevision(), answer.getReplayed());
  }

  /** An id that carries its time. */
  static UUID uuid7() {
    UUID random = UUID.randomUUID();
    long bits = random.getMostSignificantBits() & 0xfff;
    long time = System.currentTimeMillis();
    return new UUID(time << 16 | 7 << 12 | bits, random.getLeastSignificantBits());
  }

  static void get(Channel channel, List<String> names) {
    CounterServiceGrpc.newBlockingStub(channel)
        .withDeadlineAfter(SumdClient.DEADLINE)
        .batchGetCounters(BatchGetCountersRequest.newBuilder().addAllCounters(names).build())
        .getCountersList()
        .forEach(counter -> System.out.println(describe(counter)));
  }

  private static String describe(Counter counter) {
    return counter.getName() + " " + counter.getValue() + " " + counter.getRevision();
  }

  /** After a broken stream, opens another one, from the last revision on. */
  static void watch(Channel channel, String prefix, long lines) throws InterruptedException {
    CounterServiceBlockingStub stub = CounterServiceGrpc.newBlockingStub(channel);
    WatchCountersRequest.Builder request = WatchCountersRequest.newBuilder().setPrefix(prefix);
    boolean begun = false;
    for (Backoff backoff = new Backoff(); ; Thread.sleep(backoff.nextMillis())) {
      try {
        Iterator<WatchCountersResponse> answers = stub.watchCounters(request.build());
        while (answers.hasNext()) {
          WatchCountersResponse answer = answers.next();
          for (String line : changes(answer, begun)) {
            System.out.println(line);
            if (--lines == 0) {
              return;
            }
          }
          request.setFromRevision(answer.getRevision());
          backoff.reset();
          begun = true;
        }
      } catch (StatusRuntimeException e) {
        if (!Channels.isBroken(e.getStatus())) {
          throw e;
        }
      }
    }
  }

  private static List<String> changes(WatchCountersResponse answer, boolean begun) {
    List<String> lines = new ArrayList<>();
    if (answer.getRestarted() && begun) {
      // Deletions in between are unknown: the whole state follows.
      lines.add("restarted");
    }
    answer.getCountersList().forEach(counter -> lines.add(describe(counter)));
    answer.getDeletedList().forEach(name -> lines.add(name + " deleted"));
    if (answer.getSynced()) {
      lines.add("synced " + answer.getRevision());
    }
    return lines;
  }
}
