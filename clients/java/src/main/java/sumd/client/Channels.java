package sumd.client;

import com.google.gson.Gson;
import io.grpc.Attributes;
import io.grpc.EquivalentAddressGroup;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.NameResolverRegistry;
import io.grpc.Status;
import io.grpc.StatusOr;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** Makes channels that rotate over the healthy servers of a list, and retry on the next one. */
final class Channels {

  private static final String RETRY_POLICY =
      """
      {
        "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s",
        "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", "UNKNOWN"]
      }
      """;

  /**
   * Sums have no side effects, so a call that a dying server left unanswered is sent again, to the
   * next server. Streams live as long as their input: they have no timeout, so they must not wait
   * for a server for ever either.
   *
   * <p>An increment is sent again, too, but only because each has a request_id here, by which the
   * server counts it once. The streams of counters have no policy: they resume after the last
   * response that they received.
   *
   * <p>The JSON is the same in every language, except for UNKNOWN: grpc-java reports that code if a
   * connection breaks while a call is being sent ("channel closed", grpc-java issue 10120).
   * {@code sumd} itself never returns it.
   */
  private static final String SERVICE_CONFIG =
      """
      {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "sum.v1.SumService"},
        "methodConfig": [{
          "name": [{"service": "sum.v1.SumService", "method": "Add"}],
          "waitForReady": true,
          "timeout": "5s",
          "retryPolicy": %1$s
        }, {
          "name": [{"service": "sum.v1.SumService"}],
          "retryPolicy": %1$s
        }, {
          "name": [
            {"service": "sum.v1.CounterService", "method": "IncrementCounter"},
            {"service": "sum.v1.CounterService", "method": "BatchGetCounters"}
          ],
          "waitForReady": true,
          "timeout": "5s",
          "retryPolicy": %1$s
        }]
      }
      """
          .formatted(RETRY_POLICY);

  static {
    NameResolverRegistry.getDefaultRegistry().register(new ListResolverProvider());
  }

  private Channels() {}

  /**
   * Connects to a comma-separated list of {@code host:port}, at the first call.
   *
   * @throws IllegalArgumentException if the list is invalid
   */
  static ManagedChannel to(String addresses) {
    String target = "list:///" + URLEncoder.encode(addresses, StandardCharsets.UTF_8);
    @SuppressWarnings("unchecked")
    Map<String, ?> serviceConfig = new Gson().fromJson(SERVICE_CONFIG, Map.class);
    return Grpc.newChannelBuilder(target, InsecureChannelCredentials.create())
        .defaultServiceConfig(serviceConfig)
        // Detects a machine that vanished without closing its connections.
        .keepAliveTime(10, TimeUnit.SECONDS)
        .keepAliveTimeout(2, TimeUnit.SECONDS)
        .build();
  }

  /** Whether a stream ended because its connection broke or its server is stopping. */
  static boolean isBroken(Status status) {
    return status.getCode() == Status.Code.UNAVAILABLE || status.getCode() == Status.Code.UNKNOWN;
  }

  /**
   * Resolves {@code list:///host:port,host:port}, once. If a DNS name has an address for each
   * server, none of this is needed: {@code dns:///sumd.example:8080} does the same.
   */
  private static final class ListResolverProvider extends NameResolverProvider {
    @Override
    public String getDefaultScheme() {
      return "list";
    }

    @Override
    public NameResolver newNameResolver(URI target, NameResolver.Args args) {
      String[] addresses = target.getPath().substring(1).split(",");
      List<EquivalentAddressGroup> servers =
          Arrays.stream(addresses).map(ListResolverProvider::server).toList();
      return new NameResolver() {
        @Override
        public String getServiceAuthority() {
          return addresses[0];
        }

        @Override
        public void start(Listener2 listener) {
          listener.onResult(
              ResolutionResult.newBuilder()
                  .setAddressesOrError(StatusOr.fromValue(servers))
                  .build());
        }

        @Override
        public void shutdown() {}
      };
    }

    private static EquivalentAddressGroup server(String address) {
      URI uri = URI.create("//" + address);
      if (uri.getHost() == null || uri.getPort() < 0) {
        throw new IllegalArgumentException("\"" + address + "\" is not a host:port");
      }
      var socketAddress = new InetSocketAddress(uri.getHost(), uri.getPort());
      if (socketAddress.isUnresolved()) {
        throw new IllegalArgumentException("\"" + uri.getHost() + "\" is not a known host");
      }
      // Each server gets its own name as the authority, not that of the whole list.
      Attributes attributes =
          Attributes.newBuilder()
              .set(EquivalentAddressGroup.ATTR_AUTHORITY_OVERRIDE, address)
              .build();
      return new EquivalentAddressGroup(socketAddress, attributes);
    }

    @Override
    protected boolean isAvailable() {
      return true;
    }

    @Override
    protected int priority() {
      return 5;
    }
  }
}
