package sumd.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.Code;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;

/** What went wrong, for people: the code, the message and the details of a status. */
final class Errors {

  private Errors() {}

  /** One line for the status, then one indented line for each detail, to standard error. */
  static void report(Throwable error) {
    Status status = StatusProto.fromThrowable(error);
    if (status == null) { // Not from a call.
      Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
      System.err.println("error: " + cause.getMessage());
      return;
    }
    // Where it could not connect, gRPC's message goes on with a stack trace.
    String message = status.getMessage().lines().findFirst().orElse("");
    System.err.println("error: " + code(status) + ": " + message);
    details(status).forEach(detail -> System.err.println("  " + detail));
  }

  static String code(Status status) {
    Code code = Code.forNumber(status.getCode());
    return code == null ? "UNKNOWN" : code.name();
  }

  /** Programs should decide by the reason and the metadata, never by the message. */
  static List<String> details(Status status) {
    return status.getDetailsList().stream().map(Errors::detail).toList();
  }

  private static String detail(Any detail) {
    try {
      if (detail.is(ErrorInfo.class)) {
        ErrorInfo info = detail.unpack(ErrorInfo.class);
        StringBuilder text = new StringBuilder("reason=" + info.getReason());
        text.append(", domain=").append(info.getDomain());
        new TreeMap<>(info.getMetadataMap())
            .forEach((key, value) -> text.append(", " + key + "=" + value));
        return text.toString();
      }
      if (detail.is(RetryInfo.class)) {
        var delay = detail.unpack(RetryInfo.class).getRetryDelay();
        long millis = Duration.ofSeconds(delay.getSeconds(), delay.getNanos()).toMillis();
        return "retry_delay=" + millis / 1000.0 + "s";
      }
    } catch (InvalidProtocolBufferException e) {
      return detail.getTypeUrl() + " (malformed)";
    }
    return detail.getTypeUrl();
  }
}
