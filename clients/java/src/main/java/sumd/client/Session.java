package sumd.client;

import com.google.protobuf.Timestamp;
import io.grpc.Channel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import sumd.sum.v1.CounterServiceGrpc;
import sumd.sum.v1.CounterServiceGrpc.CounterServiceStub;
import sumd.sum.v1.Increment;
import sumd.sum.v1.IncrementFailure;
import sumd.sum.v1.RecordIncrementsRequest;
import sumd.sum.v1.RecordIncrementsResponse;

/**
 * A bulk session: increments by the thousand, each exactly once.
 *
 * <p>A session outlives its streams: unacknowledged messages are kept, and sent again, unchanged,
 * on the next stream. Several threads share it: one reads the input, one sends, and responses
 * arrive on threads of gRPC.
 */
final class Session {

  private static final int INCREMENTS_PER_MESSAGE = 100;

  /** The longest time to retry without progress. */
  private static final Duration PATIENCE = Duration.ofSeconds(30);

  private final RecordIncrementsRequest.Builder hello;

  private long acknowledged;

  /** The increments of the messages acknowledged + 1, acknowledged + 2 and so on. */
  private final List<List<Increment>> unacknowledged = new ArrayList<>();

  /** 0 until the stream's first response. */
  private int window;

  private boolean inputEnded;
  private long failed;

  /** Whether there was progress since this was false. */
  private boolean progress = true;

  Session(String id, long beginMillis) {
    hello = RecordIncrementsRequest.newBuilder().setSessionId(id);
    if (beginMillis != 0) { // A UUIDv7 carries its time.
      hello.setSessionTime(
          Timestamp.newBuilder()
              .setSeconds(Math.floorDiv(beginMillis, 1000))
              .setNanos(Math.floorMod(beginMillis, 1000) * 1_000_000));
    }
  }

  /**
   * Adds each line of the input exactly once. After a crash of the client, the same command with
   * the same input finishes the work: acknowledged messages are not sent again.
   */
  void record(Channel channel, InputStream input) throws Exception {
    var reader = new FutureTask<>(() -> read(input));
    new Thread(reader).start();
    try {
      run(CounterServiceGrpc.newStub(channel));
    } finally {
      System.out.println("acknowledged=" + acknowledged + " failed=" + failed);
    }
    reader.get();
  }

  /**
   * Stops at an invalid line, and leaves out its message. So messages have the same numbers and
   * contents when the command runs again with the line fixed.
   */
  private Void read(InputStream input) throws IOException, InterruptedException {
    var lines = new BufferedReader(new InputStreamReader(input, StandardCharsets.UTF_8));
    long number = 0;
    long sequence = 0;
    try {
      List<Increment> message = new ArrayList<>();
      for (String line; (line = lines.readLine()) != null; ) {
        number++;
        message.add(increment(line));
        if (message.size() == INCREMENTS_PER_MESSAGE) {
          keep(++sequence, message);
          message = new ArrayList<>();
        }
      }
      if (!message.isEmpty()) {
        keep(++sequence, message);
      }
    } catch (IllegalArgumentException e) {
      throw new IOException("line " + number + ": " + e.getMessage(), e);
    } finally {
      endInput();
    }
    return null;
  }

  private static Increment increment(String line) {
    int space = line.lastIndexOf(' '); // A counter's name may have spaces.
    if (space < 0) {
      throw new IllegalArgumentException("\"" + line + "\" is not a counter and a delta");
    }
    return Increment.newBuilder()
        .setCounter(line.substring(0, space))
        .setDelta(SumdClient.integer(line.substring(space + 1)))
        .build();
  }

  private synchronized void keep(long sequence, List<Increment> message)
      throws InterruptedException {
    while (unacknowledged.size() >= window) {
      wait();
    }
    if (sequence > acknowledged) { // Otherwise an earlier run has sent it.
      unacknowledged.add(message);
      notifyAll();
    }
  }

  private synchronized void endInput() {
    inputEnded = true;
    notifyAll();
  }

  private synchronized boolean done() {
    return inputEnded && unacknowledged.isEmpty();
  }

  /** Opens one stream after the other until all messages are acknowledged. */
  private void run(CounterServiceStub stub) throws InterruptedException {
    var backoff = new Backoff();
    long giveUp = 0;
    while (true) {
      StatusRuntimeException end = stream(stub);
      if (done()) {
        return;
      }
      if (progressed()) {
        backoff.reset();
        giveUp = System.nanoTime() + PATIENCE.toNanos();
      }
      long pauseMillis = backoff.nextMillis();
      boolean late = System.nanoTime() + 1_000_000 * pauseMillis - giveUp > 0;
      if (late || !mayPass(end.getStatus())) {
        throw end;
      }
      Thread.sleep(pauseMillis);
    }
  }

  private static boolean mayPass(Status status) {
    return switch (status.getCode()) {
      case DEADLINE_EXCEEDED -> true; // The input was silent for too long.
      // The server's memory is full, or failures are to be acknowledged first.
      case RESOURCE_EXHAUSTED -> true;
      default -> Channels.isBroken(status);
    };
  }

  /** Exchanges messages on one stream, and returns how it ended. */
  private StatusRuntimeException stream(CounterServiceStub stub) throws InterruptedException {
    setWindow(0);
    var call =
        new StreamCall<RecordIncrementsRequest, RecordIncrementsResponse>(
            stub::recordIncrements, this::acknowledge);
    new Thread(new FutureTask<>(() -> send(call))).start();
    try {
      call.await();
      return Status.UNAVAILABLE
          .withDescription("the server ended the stream early")
          .asRuntimeException();
    } catch (ExecutionException e) {
      return (StatusRuntimeException) e.getCause();
    } finally {
      wake();
    }
  }

  private Void send(StreamCall<RecordIncrementsRequest, RecordIncrementsResponse> call)
      throws InterruptedException {
    // This names the session. The response has the last acknowledged message, and the window.
    RecordIncrementsRequest message = hello();
    while (message != null && call.send(message)) {
      message = next(call, message.getSequence());
    }
    call.send(hello()); // This lets the server drop the last failures.
    call.finishSending();
    return null;
  }

  private synchronized RecordIncrementsRequest hello() {
    return hello.setAcknowledged(acknowledged).build();
  }

  /** Waits for the next message to send after that one; null if there are no more. */
  private synchronized RecordIncrementsRequest next(StreamCall<?, ?> call, long sent)
      throws InterruptedException {
    while (true) {
      if (call.ended() || done()) {
        return null;
      }
      int ahead = (int) (Math.max(sent, acknowledged) - acknowledged);
      if (ahead < Math.min(window, unacknowledged.size())) {
        return RecordIncrementsRequest.newBuilder()
            .setSequence(acknowledged + ahead + 1)
            .setAcknowledged(acknowledged)
            .addAllIncrements(unacknowledged.get(ahead))
            .build();
      }
      wait();
    }
  }

  private synchronized void acknowledge(RecordIncrementsResponse answer) {
    for (IncrementFailure failure : answer.getFailuresList()) {
      if (failure.getSequence() <= acknowledged) {
        continue; // Known from an earlier stream.
      }
      failed++;
      System.out.printf(
          "failed %d %d %s reason=%s%n",
          failure.getSequence(),
          failure.getIndex(),
          Errors.code(failure.getError()),
          Errors.reason(failure.getError()));
    }
    long news = Math.max(answer.getAcknowledged() - acknowledged, 0);
    unacknowledged.subList(0, (int) Math.min(news, unacknowledged.size())).clear();
    acknowledged += news;
    window = answer.getWindow();
    // A stream on which nothing was left to do counts as progress, too.
    progress |= news > 0 || unacknowledged.isEmpty();
    notifyAll();
  }

  private synchronized boolean progressed() {
    boolean progressed = progress;
    progress = false;
    return progressed;
  }

  private synchronized void setWindow(int window) {
    this.window = window;
  }

  private synchronized void wake() {
    notifyAll();
  }
}
