import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.flume.Event;
import org.apache.flume.api.RpcClient;
import org.apache.flume.api.RpcClientFactory;
import org.apache.flume.event.EventBuilder;

/**
 * Clients of Flume's SDK, one per argument: properties of the client as {@code key=value} separated by commas,
 * {@code ;} standing for a comma within a value. {@code label}, {@code count} and {@code batch} are ours: so many
 * events with the body {@code label number}, so many per call; a batch of 0 sends them one by one.
 */
public class Send {
  public static void main(String[] clients) throws Exception {
    for (String client : clients) {
      Properties properties = new Properties();
      for (String pair : client.split(",")) {
        int equals = pair.indexOf('=');
        properties.setProperty(pair.substring(0, equals), pair.substring(equals + 1).replace(';', ' '));
      }
      send(properties);
    }
    System.exit(0);
  }

  static void send(Properties properties) throws Exception {
    String label = properties.getProperty("label");
    int count = Integer.parseInt(properties.getProperty("count"));
    int batch = Integer.parseInt(properties.getProperty("batch"));
    properties.setProperty("batch-size", Integer.toString(Math.max(batch, 1)));
    RpcClient client = RpcClientFactory.getInstance(properties);
    List<Event> events = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      byte[] body = (label + " " + i).getBytes(StandardCharsets.UTF_8);
      Event event = EventBuilder.withBody(body, Map.of("label", label, "kéy", "välue €"));
      if (batch == 0) {
        client.append(event);
        continue;
      }
      events.add(event);
      if (events.size() == batch || i + 1 == count) {
        client.appendBatch(events);
        events.clear();
      }
    }
    client.close();
    System.out.println(label + " sent " + count);
  }
}
