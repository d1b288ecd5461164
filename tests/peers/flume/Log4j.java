import org.apache.flume.clients.log4jappender.Log4jAppender;
import org.apache.log4j.Level;
import org.apache.log4j.Logger;
import org.apache.log4j.PatternLayout;

/** Logs numbered lines through Flume's appender for log4j 1.2: host, port, count. */
public class Log4j {
  public static void main(String[] args) {
    Log4jAppender appender = new Log4jAppender(args[0], Integer.parseInt(args[1]));
    appender.setLayout(new PatternLayout("%m"));
    appender.activateOptions();
    Logger logger = Logger.getLogger("millrace.test");
    logger.setLevel(Level.INFO);
    logger.setAdditivity(false);
    logger.addAppender(appender);
    for (int i = 0; i < Integer.parseInt(args[2]); i++) {
      logger.info("log4j " + i);
    }
    appender.close();
    System.exit(0);
  }
}
