import java.io.File;
import org.apache.avro.file.DataFileReader;
import org.apache.avro.generic.GenericDatumReader;

/** Reads Avro container files with Avro's own library: its path, codec and schema, then each datum, a line each. */
public class ReadAvro {
  public static void main(String[] files) throws Exception {
    for (String file : files) {
      try (DataFileReader<Object> reader = new DataFileReader<>(new File(file), new GenericDatumReader<>())) {
        System.out.println(file);
        System.out.println(reader.getMetaString("avro.codec") + " " + reader.getSchema());
        for (Object datum : reader) {
          System.out.println(datum);
        }
      }
    }
  }
}
