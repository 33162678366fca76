package sumd.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.Code;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import java.util.stream.Stream;

/** Errors as text for people: the code, the message and the details of a status. */
final class Errors {

  private Errors() {}

  /** Prints one line for the status, then one indented line for each detail, to standard error. */
  static void report(Throwable error) {
    Status status = StatusProto.fromThrowable(error);
    if (status == null) { // Not from a call.
      Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
      System.err.println("error: " + cause.getMessage());
      return;
    }
    // If gRPC could not connect, its message has a stack trace after the first line.
    String message = status.getMessage().lines().findFirst().orElse("");
    System.err.println("error: " + code(status) + ": " + message);
    details(status).forEach(detail -> System.err.println("  " + detail));
  }

  static String code(Status status) {
    Code code = Code.forNumber(status.getCode());
    return code == null ? "UNKNOWN" : code.name();
  }

  /** The details: programs decide by the reason and the metadata, never by the message. */
  static List<String> details(Status status) {
    return status.getDetailsList().stream().flatMap(Errors::lines).toList();
  }

  /** The reason alone; empty if there is none. */
  static String reason(Status status) {
    for (Any detail : status.getDetailsList()) {
      try {
        if (detail.is(ErrorInfo.class)) {
          return detail.unpack(ErrorInfo.class).getReason();
        }
      } catch (InvalidProtocolBufferException e) {
        return "";
      }
    }
    return "";
  }

  private static Stream<String> lines(Any detail) {
    try {
      if (detail.is(ErrorInfo.class)) {
        ErrorInfo info = detail.unpack(ErrorInfo.class);
        StringBuilder text = new StringBuilder("reason=" + info.getReason());
        text.append(", domain=").append(info.getDomain());
        new TreeMap<>(info.getMetadataMap())
            .forEach((key, value) -> text.append(", " + key + "=" + value));
        return Stream.of(text.toString());
      }
      if (detail.is(BadRequest.class)) {
        return detail.unpack(BadRequest.class).getFieldViolationsList().stream()
            .map(wrong -> wrong.getField() + ": " + wrong.getDescription());
      }
      if (detail.is(RetryInfo.class)) {
        var delay = detail.unpack(RetryInfo.class).getRetryDelay();
        long millis = Duration.ofSeconds(delay.getSeconds(), delay.getNanos()).toMillis();
        return Stream.of("retry_delay=" + millis / 1000.0 + "s");
      }
    } catch (InvalidProtocolBufferException e) {
      return Stream.of(detail.getTypeUrl() + " (malformed)");
    }
    return Stream.of(detail.getTypeUrl());
  }
}
