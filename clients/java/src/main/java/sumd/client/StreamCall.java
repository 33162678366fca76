package sumd.client;

import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.StreamObserver;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.function.Consumer;
import java.util.function.Function;

/**
 * A call with requests {@code Q} and responses {@code A}: one thread sends while the responses
 * arrive on threads of gRPC.
 *
 * <p>A request stream's {@code onNext} never blocks: requests that the server does not take pile up
 * in memory. {@link #send} therefore waits until flow control allows the next request.
 */
final class StreamCall<Q, A> implements ClientResponseObserver<Q, A> {

  private final Consumer<A> answers;
  private final CompletableFuture<Void> ended = new CompletableFuture<>();
  private ClientCallStreamObserver<Q> requests;

  /** Makes the call; {@code method} is a method of a stub. */
  StreamCall(Function<StreamObserver<A>, StreamObserver<Q>> method, Consumer<A> answers) {
    this.answers = answers;
    method.apply(this);
  }

  /** Waits while the server takes no requests; returns false if the call has ended. */
  synchronized boolean send(Q request) throws InterruptedException {
    while (!requests.isReady() && !ended.isDone()) {
      wait();
    }
    if (ended.isDone()) {
      return false;
    }
    requests.onNext(request);
    return true;
  }

  /** Says that there are no more requests; the responses to those sent still come. */
  void finishSending() {
    requests.onCompleted();
  }

  boolean ended() {
    return ended.isDone();
  }

  /** Returns after the last response; throws if the call failed. */
  void await() throws ExecutionException, InterruptedException {
    ended.get();
  }

  @Override
  public void beforeStart(ClientCallStreamObserver<Q> requests) {
    this.requests = requests;
    requests.setOnReadyHandler(this::wakeSender);
  }

  @Override
  public void onNext(A answer) {
    answers.accept(answer);
  }

  @Override
  public void onError(Throwable error) {
    ended.completeExceptionally(error);
    wakeSender();
  }

  @Override
  public void onCompleted() {
    ended.complete(null);
    wakeSender();
  }

  private synchronized void wakeSender() {
    notifyAll();
  }
}
