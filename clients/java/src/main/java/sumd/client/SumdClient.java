package sumd.client;

import com.google.rpc.Status;
import io.grpc.Channel;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collections;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.atomic.LongAdder;
import java.util.function.Function;
import java.util.stream.Stream;
import sumd.sum.v1.AddEachRequest;
import sumd.sum.v1.AddEachResponse;
import sumd.sum.v1.AddRequest;
import sumd.sum.v1.SumServiceGrpc;

/**
 * An example client of {@code sumd}: calls with a deadline, a pipelined stream, several servers,
 * retries, and errors with their details.
 */
public final class SumdClient {

  private static final String USAGE =
      """
      usage: java -jar target/sumd-client.jar COMMAND, which is one of
        add ADDRESSES VALUE...   print the sum of the values
        each ADDRESSES           print the sum of each line of standard input
        load ADDRESSES SECONDS   call Add from 4 workers and check every sum

        inc ADDRESSES COUNTER DELTA [REQUEST_ID]   add to a counter, exactly once
        get ADDRESSES COUNTER...                   print the values of counters
        watch ADDRESSES PREFIX COUNT               print COUNT lines of state and changes
        record ADDRESSES SESSION_ID SESSION_TIME_MS
            add each line of standard input, COUNTER DELTA, exactly once; the time is that of the
            session's beginning, or 0 if its id is a UUIDv7
      ADDRESSES is host:port[,host:port...]\
      """;

  static final Duration DEADLINE = Duration.ofSeconds(5);
  private static final int WORKERS = 4;

  private interface Command {
    void run(Channel channel) throws Exception;
  }

  private SumdClient() {}

  public static void main(String[] args) {
    System.exit(run(args));
  }

  private static int run(String[] args) {
    Command command;
    ManagedChannel channel;
    try {
      command = parse(List.of(args));
      channel = Channels.to(args[1]);
    } catch (IllegalArgumentException e) {
      System.err.println(e.getMessage() + "\n" + USAGE);
      return 2;
    }
    try {
      command.run(channel);
      return 0;
    } catch (Exception e) {
      Errors.report(e);
      return 1;
    } finally {
      channel.shutdownNow();
    }
  }

  private static Command parse(List<String> args) {
    String name = args.isEmpty() ? "" : args.get(0);
    if (name.equals("add") && args.size() > 2) {
      List<Long> values = integers(args.stream().skip(2));
      return channel -> System.out.println(add(channel, values));
    }
    if (name.equals("each") && args.size() == 2) {
      return SumdClient::each;
    }
    if (name.equals("load") && args.size() == 3) {
      long nanos = (long) (1e9 * number(args.get(2), "number of seconds", Double::valueOf));
      return channel -> load(channel, nanos);
    }
    if (name.equals("inc") && (args.size() == 4 || args.size() == 5 && !args.get(4).isEmpty())) {
      long delta = integer(args.get(3));
      String requestId = args.size() == 5 ? args.get(4) : Counters.uuid7().toString();
      return channel -> Counters.increment(channel, args.get(2), delta, requestId);
    }
    if (name.equals("get") && args.size() > 2) {
      return channel -> Counters.get(channel, args.subList(2, args.size()));
    }
    if (name.equals("watch") && args.size() == 4) {
      long lines = integer(args.get(3));
      if (lines < 1) {
        throw new IllegalArgumentException("COUNT is at least 1");
      }
      return channel -> Counters.watch(channel, args.get(2), lines);
    }
    if (name.equals("record") && args.size() == 4) {
      long beginMillis = integer(args.get(3));
      return channel -> new Session(args.get(2), beginMillis).record(channel, System.in);
    }
    throw new IllegalArgumentException("which command?");
  }

  private static long add(Channel channel, List<Long> values) {
    return SumServiceGrpc.newBlockingStub(channel)
        // A deadline is a point in time, so it is set for each call and not once for the stub.
        .withDeadlineAfter(DEADLINE)
        .add(AddRequest.newBuilder().addAllValues(values).build())
        .getSum();
  }

  private static void each(Channel channel) throws Exception {
    var call =
        new StreamCall<AddEachRequest, AddEachResponse>(
            SumServiceGrpc.newStub(channel)::addEach, SumdClient::print);
    // Another thread reads standard input, so that a failed call is noticed between lines.
    var sender = new FutureTask<>(() -> sendLines(call));
    new Thread(sender).start();
    call.await();
    sender.get();
  }

  private static Void sendLines(StreamCall<AddEachRequest, AddEachResponse> call) throws IOException, InterruptedException {
    var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    int number = 0;
    try {
      for (String line; (line = input.readLine()) != null; ) {
        number++;
        List<Long> values = integers(Stream.of(line.split("\\s+")).filter(w -> !w.isEmpty()));
        if (!call.send(AddEachRequest.newBuilder().addAllValues(values).build())) {
          break;
        }
      }
    } catch (IllegalArgumentException e) {
      throw new IOException("line " + number + ": " + e.getMessage(), e);
    } finally {
      call.finishSending(); // The lines before an invalid one still get responses.
    }
    return null;
  }

  private static void print(AddEachResponse answer) {
    if (answer.hasError()) { // Only this message has no sum; the stream goes on.
      Status error = answer.getError();
      String details = String.join("; ", Errors.details(error));
      System.out.println(
          "error: " + Errors.code(error) + " " + error.getMessage() + " (" + details + ")");
    } else {
      System.out.println(answer.getSum());
    }
  }

  private static void load(Channel channel, long nanos) throws Exception {
    long end = System.nanoTime() + nanos;
    LongAdder calls = new LongAdder();
    Queue<StatusRuntimeException> failures = new ConcurrentLinkedQueue<>();
    Callable<Void> worker =
        () -> {
          for (long n = 1; System.nanoTime() < end; n++) {
            calls.increment();
            try {
              long sum = add(channel, List.of(n, 1L));
              if (sum != n + 1) {
                throw io.grpc.Status.DATA_LOSS
                    .withDescription(n + " + 1 was answered by " + sum)
                    .asRuntimeException();
              }
            } catch (StatusRuntimeException e) {
              failures.add(e);
            }
          }
          return null;
        };
    ExecutorService threads = Executors.newFixedThreadPool(WORKERS);
    for (Future<Void> done : threads.invokeAll(Collections.nCopies(WORKERS, worker))) {
      done.get();
    }
    threads.shutdown();
    System.out.println("calls=" + calls + " failed=" + failures.size());
    if (!failures.isEmpty()) {
      throw failures.peek();
    }
  }

  private static List<Long> integers(Stream<String> words) {
    return words.map(SumdClient::integer).toList();
  }

  static long integer(String word) {
    return number(word, "64-bit integer", Long::valueOf);
  }

  private static <T> T number(String word, String kind, Function<String, T> parser) {
    try {
      return parser.apply(word);
    } catch (NumberFormatException e) {
      throw new IllegalArgumentException("\"" + word + "\" is not a " + kind, e);
    }
  }
}
