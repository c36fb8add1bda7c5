"""What tests of several rooms use: repositories, mirrors, servers, Airflow and a browser."""
